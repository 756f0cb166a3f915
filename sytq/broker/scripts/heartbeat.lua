-- A heartbeat: renews the lease of a worker, or ends it when the worker is leaving. A new `card` (JSON) replaces its last.
-- KEYS workers epoch cancels cards   ARGV consumer leaving lease_ms card or '' ids of its tasks...
-- -> {epoch, now, who requested the cancellation of each task or ''}
local now, epoch = now_ms(), false
if ARGV[2] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])  -- its remaining tasks may be reclaimed at once
  redis.call('HDEL', KEYS[4], ARGV[1])
else
  epoch = alive(KEYS[1], KEYS[2], ARGV[1], now, tonumber(ARGV[3]))
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[4], ARGV[1], ARGV[4]) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600000)
local asked = {}
for a = 5, #ARGV do asked[#asked + 1] = redis.call('HGET', KEYS[3], ARGV[a]) or '' end
return { epoch, int(now), asked }
