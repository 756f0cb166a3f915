-- Moves a message of an external stream to its dead letters, once.
-- KEYS stream dead-letters   ARGV group entry name value...   -> 1, or 0 when it is not pending (any more)
local group, entry = ARGV[1], ARGV[2]
if not redis.call('XPENDING', KEYS[1], group, entry, entry, 1)[1] then return 0 end
redis.call('XACK', KEYS[1], group, '0-1')  -- without the right to it the message would be moved again and again
redis.call('XDEL', KEYS[1], '0-1')
local fields = {}
for a = 3, #ARGV do fields[a - 2] = ARGV[a] end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XACK', KEYS[1], group, entry)
redis.call('XDEL', KEYS[1], entry)
return 1
