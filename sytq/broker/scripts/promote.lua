-- queued <- scheduled | retrying: moves due tasks into their streams, a bounded number at a time.
-- KEYS live delayed bodies wake-up urgent high normal low    ARGV most
-- -> {moved, ms until the next is due or -1, wake-up id}
local STREAM = { urgent = KEYS[5], high = KEYS[6], normal = KEYS[7], low = KEYS[8] }
local now = now_ms()
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  local l, message = unpack_live(redis.call('HGET', KEYS[1], id)), redis.call('HGET', KEYS[3], id)
  if l and message and (l.state == 'scheduled' or l.state == 'retrying') then
    l.entry = redis.call('XADD', STREAM[l.priority] or STREAM.normal, '*', 'id', id, 'message', message)
    l.state = 'queued'
    redis.call('HSET', KEYS[1], id, pack_live(l))
  end
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[2], id)  -- last, so that a call that Redis refused halfway can be repeated
end
local head = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local bell = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
return { #ids, head[2] and math.max(tonumber(head[2]) - now, 0) or -1, bell and bell[1] or '0-0' }
