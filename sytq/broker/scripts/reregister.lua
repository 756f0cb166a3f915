-- running <- (nothing): Redis was emptied; the worker that runs a task registers it again.
-- KEYS live stream queues   ARGV group consumer id type queue priority attempts max token message
-- -> entry, or nil when another attempt has the task
local known = unpack_live(redis.call('HGET', KEYS[1], ARGV[3]))
if known then
  -- This worker's already: the reply to an earlier call was lost.
  return known.state == 'running' and known.consumer == ARGV[2] and int(known.token) == ARGV[9] and known.entry
end
redis.call('SADD', KEYS[3], ARGV[5])
-- Redis may have been emptied again: without the group the entry would be nobody's, and start as a new task.
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], '0', 'MKSTREAM')
local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[3], 'message', ARGV[10])
redis.call('XCLAIM', KEYS[2], ARGV[1], ARGV[2], 0, entry, 'FORCE', 'JUSTID')
redis.call('HSET', KEYS[1], ARGV[3], pack_live({ state = 'running', type = ARGV[4], queue = ARGV[5],
  priority = ARGV[6], attempts = tonumber(ARGV[7]), max = tonumber(ARGV[8]), token = tonumber(ARGV[9]),
  consumer = ARGV[2], entry = entry }))
return entry
