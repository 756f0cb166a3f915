-- Acquires or renews a loop's lease: one holder at a time.
-- KEYS lease   ARGV holder ttl_ms   -> 1 when held by `holder` now
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
