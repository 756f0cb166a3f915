-- queued | scheduled <- (nothing): enter tasks that Redis does not know. Idempotent by task id.
-- KEYS live stats bell queues, then per slot: stream delayed bodies
-- ARGV not_after_ms, then per task: slot id type queue priority attempts max token due_ms message
-- -> number entered, or -1 when it is later than `not_after_ms` (0: never), as the caller's knowledge is too old then
local now, entered = now_ms(), 0
if ARGV[1] ~= '0' and now > tonumber(ARGV[1]) then return -1 end
for a = 2, #ARGV, 10 do
  local slot = 4 + (tonumber(ARGV[a]) - 1) * 3
  local id, due, message = ARGV[a + 1], tonumber(ARGV[a + 8]), ARGV[a + 9]
  if redis.call('HEXISTS', KEYS[1], id) == 0 then
    local l = { type = ARGV[a + 2], queue = ARGV[a + 3], priority = ARGV[a + 4], attempts = tonumber(ARGV[a + 5]),
      max = tonumber(ARGV[a + 6]), token = tonumber(ARGV[a + 7]) }
    if due > now then
      l.state = 'scheduled'
      delay(KEYS[slot + 2], KEYS[slot + 3], KEYS[3], id, due, message)
    else
      l.state = 'queued'
      l.entry = redis.call('XADD', KEYS[slot + 1], '*', 'id', id, 'message', message)
    end
    redis.call('HSET', KEYS[1], id, pack_live(l))
    redis.call('SADD', KEYS[4], l.queue)
    redis.call('HINCRBY', KEYS[2], l.type .. ':submitted', 1)
    entered = entered + 1
  end
end
return entered
