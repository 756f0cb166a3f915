-- Sets the idle time of this consumer's messages: to 0 while it works on them, to more when it leaves.
-- KEYS stream   ARGV group consumer idle_ms entry...   -> number that are still this consumer's
local kept = 0
for a = 4, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[a], ARGV[a], 1)[1]
  if pending and pending[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[a], 'IDLE', ARGV[3], 'JUSTID')
    kept = kept + 1
  end
end
return kept
