-- Releases permits: counts their outcomes, and hands them over to waiting tasks. Harmless twice.
-- KEYS as in _limiter_keys.lua, then those of these queues, as in _wait_queue.lua
-- ARGV liveness_ms group, queues as in _wait_queue.lua, then per permit: task token permit acquired_ms outcome reserved cost
--      number_of_limiters, limiters...
--      acquired_ms: 0 when the attempt no longer waits for it in place, though it may have been handed the permit meanwhile;
--      reserved: the cost that was acquired; cost: the real one
-- -> {limiter, state}... whose breaker changed
local a = queues(ARGV[2], 3, 14)
while a < #ARGV do
  local last = a + 7 + tonumber(ARGV[a + 7])
  local r = { id = ARGV[a], token = ARGV[a + 1], permit = ARGV[a + 2], at = tonumber(ARGV[a + 3]), outcome = ARGV[a + 4],
    reserved = tonumber(ARGV[a + 5]), cost = tonumber(ARGV[a + 6]) }
  local w = r.at == 0 and record(r.id)
  if w and w.permit == r.permit then forget_wait(r.id, w) end
  for k = a + 8, last do
    if r.at == 0 then r.at = acquired_at(held_by(r.id, ARGV[k]), r) or 0 end
    release_of(get(ARGV[k]), r)
  end
  a = last + 1
end
return hand_over()
