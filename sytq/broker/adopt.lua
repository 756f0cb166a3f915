-- running <- (nothing): Redis was emptied; the worker that runs a task enters it again as its own.
-- KEYS live stream   ARGV group consumer id type queue priority attempts max token message    -> entry or nil when known
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then return false end
local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[3], 'message', ARGV[10])
redis.call('XCLAIM', KEYS[2], ARGV[1], ARGV[2], 0, entry, 'FORCE', 'JUSTID')
redis.call('HSET', KEYS[1], ARGV[3], pack_live({ state = 'running', type = ARGV[4], queue = ARGV[5],
  priority = ARGV[6], attempts = tonumber(ARGV[7]), max = tonumber(ARGV[8]), token = tonumber(ARGV[9]),
  consumer = ARGV[2], entry = entry }))
return entry
