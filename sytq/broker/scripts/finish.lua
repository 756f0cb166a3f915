-- Acknowledges and deletes messages of an external stream. Harmless twice.
-- KEYS stream   ARGV group entry...   -> number that were pending
local entries = {}
for a = 2, #ARGV do entries[a - 1] = ARGV[a] end
local acked = redis.call('XACK', KEYS[1], ARGV[1], unpack(entries))
redis.call('XDEL', KEYS[1], unpack(entries))
return acked
