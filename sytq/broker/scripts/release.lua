-- A consumer leaves: its remaining messages may be claimed at once.
-- KEYS stream   ARGV group consumer idle_ms entry...   -> number released
local released = 0
for a = 4, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[a], ARGV[a], 1)[1]
  if pending and pending[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[a], 'IDLE', ARGV[3], 'JUSTID')
    released = released + 1
  end
end
return released
