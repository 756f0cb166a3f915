-- cancelled <- queued | scheduled | retrying, at once; for a running task the request is noted, and its worker ends it.
-- KEYS live events stats cancels stream delayed bodies parked suspects waiting   (of the queue and priority the caller read from the index)
-- ARGV group id queue priority by event
-- -> cancelled | asked | ended | unknown | moved (its queue or priority has changed: read them again)
local id = ARGV[2]
local l = unpack_live(redis.call('HGET', KEYS[1], id))
if not l then return 'unknown' end
if TERMINAL[l.state] then return 'ended' end
if l.state == 'running' then
  redis.call('HSETNX', KEYS[4], id, ARGV[5])
  return 'asked'
end
if l.queue ~= ARGV[3] or l.priority ~= ARGV[4] then return 'moved' end
local state, entry = l.state, l.entry
l.state, l.entry, l.consumer = 'cancelled', '', ''
l.token = l.token + 1  -- not the last attempt's token, whose event forget.lua may meet first
-- The event and the state first, so that a call that Redis refused halfway leaves no task without a place.
redis.call('XADD', KEYS[2], '*', 'kind', 'ended', 'id', id, 'token', int(l.token), 'data', ARGV[6])
redis.call('HSET', KEYS[1], id, pack_live(l))
if state == 'queued' then
  if entry == '' then redis.call('HDEL', KEYS[8], id) else redis.call('XDEL', KEYS[5], entry) end
  redis.call('ZREM', KEYS[9], id)
else
  redis.call('HDEL', KEYS[7], id)
  redis.call('ZREM', KEYS[6], id)
end
redis.call('HDEL', KEYS[10], id)
redis.call('HDEL', KEYS[4], id)  -- requested when Redis did not know the task
redis.call('HINCRBY', KEYS[3], l.type .. ':cancelled', 1)
return 'cancelled'
