-- Adds messages to an external stream, in one step and in this order.
-- KEYS stream   ARGV data...   -> entry ids
local ids = {}
for a = 1, #ARGV do ids[a] = redis.call('XADD', KEYS[1], '*', 'data', ARGV[a]) end
return ids
