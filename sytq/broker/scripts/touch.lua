-- Stores the progress of a running task; without progress it only says whether the attempt holds the task.
-- KEYS live progress cancels   ARGV id token progress
-- -> 1, 0 when another attempt has the task, 2 when its cancellation was requested
local l = unpack_live(redis.call('HGET', KEYS[1], ARGV[1]))
if l and (l.state ~= 'running' or int(l.token) ~= ARGV[2]) then return 0 end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
return redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 and 2 or 1
