-- A worker lives. KEYS workers epoch cancels  ARGV consumer leaving liveness_ms ids it holds...  -> {epoch, now, by whom each of these is to be cancelled or ''}
local now, epoch = now_ms(), false
if ARGV[2] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])  -- what it still holds may be taken over at once
else
  epoch = alive(KEYS[1], KEYS[2], ARGV[1], now, tonumber(ARGV[3]))
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600000)
local asked = {}
for a = 4, #ARGV do asked[#asked + 1] = redis.call('HGET', KEYS[3], ARGV[a]) or '' end
return { epoch, int(now), asked }
