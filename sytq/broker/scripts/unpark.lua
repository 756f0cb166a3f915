-- queued, unchanged: tasks of a type that is no longer paused return to their streams, a bounded number at a time.
-- Until 0.3: workers of 0.1 set tasks of a paused type aside, in `parked`.
-- KEYS live parked paused urgent high normal low   ARGV cursor most   -> {cursor of the rest, "0" at the end; number moved}
local STREAM = { urgent = KEYS[4], high = KEYS[5], normal = KEYS[6], low = KEYS[7] }
local reply = redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', tonumber(ARGV[2]))
local moved = 0
for i = 1, #reply[2], 2 do
  local id, message = reply[2][i], reply[2][i + 1]
  local l = unpack_live(redis.call('HGET', KEYS[1], id))
  if not l or l.consumer ~= SUSPECT and redis.call('HEXISTS', KEYS[3], l.type) == 0 then
    if l and l.state == 'queued' and l.entry == '' then
      l.entry = redis.call('XADD', STREAM[l.priority] or STREAM.normal, '*', 'id', id, 'message', message)
      redis.call('HSET', KEYS[1], id, pack_live(l))
      moved = moved + 1
    end
    redis.call('HDEL', KEYS[2], id)  -- last, so that a call that Redis refused halfway can be repeated
  end
end
return { reply[1], moved }
