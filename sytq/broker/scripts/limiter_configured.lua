-- Says what a worker's calls are made with: a configuration that no worker has had for a while pauses no limiter. Or
-- ends the pauses for these configurations, as somebody wants them tried again.
-- KEYS as in _limiter_keys.lua   ARGV liveness_ms action (announce or withdraw) configurations (scope|fingerprint)...
if ARGV[2] == 'announce' then
  for a = 3, #ARGV do redis.call('ZADD', CONFIGURED, int(now), ARGV[a]) end
  redis.call('ZREMRANGEBYSCORE', CONFIGURED, '-inf', int(now - 10 * CONFIGURED_MS))
  return 0
end
local ended = 0
local all = redis.call('HGETALL', LIMITERS)
for i = 1, #all, 2 do
  if all[i + 1]:find('"refused"', 1, true) then
    local limiter = get(all[i])
    for a = 3, #ARGV do
      if (limiter.state.refused or {})[ARGV[a]] then
        limiter.state.refused[ARGV[a]] = nil
        look_within(limiter, 0)
        ended = ended + 1
      end
    end
    advance(limiter)
  end
end
save()
return ended
