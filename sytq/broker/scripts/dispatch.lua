-- queued | scheduled <- (nothing): dispatches the tasks that Redis does not know. Idempotent by task id.
-- KEYS live stats bell queues, then per slot: stream delayed bodies
-- ARGV not_after_ms, number of kinds, then per kind: type queue priority attempts max token slot,
--   then per task: kind id due_ms message
-- -> number dispatched, or -1 when it is later than `not_after_ms`: the caller's knowledge is too old
local now, entered = now_ms(), 0
if now > tonumber(ARGV[1]) then return -1 end
local kinds, a = {}, 3
for k = 1, tonumber(ARGV[2]) do
  kinds[k] = {
    live = { type = ARGV[a], queue = ARGV[a + 1], priority = ARGV[a + 2], attempts = tonumber(ARGV[a + 3]),
      max = tonumber(ARGV[a + 4]), token = tonumber(ARGV[a + 5]) },
    slot = 4 + (tonumber(ARGV[a + 6]) - 1) * 3, entered = 0,
  }
  redis.call('SADD', KEYS[4], kinds[k].live.queue)
  a = a + 7
end
local ids, entered_ids, index = {}, {}, {}
for b = a, #ARGV, 4 do ids[#ids + 1] = ARGV[b + 1] end
local known = #ids > 0 and redis.call('HMGET', KEYS[1], unpack(ids))
for n, id in ipairs(ids) do
  local b = a + 4 * (n - 1)
  if not known[n] and not entered_ids[id] then
    local kind, due, message = kinds[tonumber(ARGV[b])], tonumber(ARGV[b + 2]), ARGV[b + 3]
    local l, slot = kind.live, kind.slot
    if due > now then
      l.state, l.entry = 'scheduled', nil
      delay(KEYS[slot + 2], KEYS[slot + 3], KEYS[3], id, due, message)
    else
      l.state = 'queued'
      l.entry = redis.call('XADD', KEYS[slot + 1], '*', 'id', id, 'message', message)
    end
    entered_ids[id] = true
    index[#index + 1], index[#index + 2] = id, pack_live(l)
    kind.entered = kind.entered + 1
  end
end
if #index > 0 then redis.call('HSET', KEYS[1], unpack(index)) end
for _, kind in ipairs(kinds) do
  if kind.entered > 0 then
    redis.call('HINCRBY', KEYS[2], kind.live.type .. ':submitted', kind.entered)
    entered = entered + kind.entered
  end
end
return entered
