-- queued stays so: tasks of a type that was paused enter their streams again, a bounded number at a time.
-- KEYS live parked urgent high normal low   ARGV queue most   -> number moved
local STREAM = { urgent = KEYS[3], high = KEYS[4], normal = KEYS[5], low = KEYS[6] }
local moved = 0
local reply = redis.call('HSCAN', KEYS[2], '0', 'COUNT', tonumber(ARGV[2]))[2]
for i = 1, #reply, 2 do
  local id, message = reply[i], reply[i + 1]
  local l = unpack_live(redis.call('HGET', KEYS[1], id))
  redis.call('HDEL', KEYS[2], id)
  if l and l.state == 'queued' and l.entry == '' then
    l.entry = redis.call('XADD', STREAM[l.priority] or STREAM.normal, '*', 'id', id, 'message', message)
    redis.call('HSET', KEYS[1], id, pack_live(l))
  end
  moved = moved + 1
end
return moved
