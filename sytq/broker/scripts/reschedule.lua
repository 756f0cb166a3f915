-- scheduled | retrying, unchanged: the task gets another due time; a past time runs it at once.
-- KEYS live delayed bell   ARGV id queue due_ms    -> 1, or 0 when it does not wait for a time in this queue
local l = unpack_live(redis.call('HGET', KEYS[1], ARGV[1]))
if not l or l.queue ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[2], 'XX', ARGV[3], ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 'due', ARGV[3])
return 1
