-- A heartbeat: renews the lease of a worker, or ends it when the worker is leaving. A new `card` (JSON) replaces its last.
-- KEYS workers epoch cancels cards departed crashes   ARGV consumer leaving lease_ms card or '' ids of its tasks...
--      leaving: 1 it leaves now; 2 it was asked to stop: if it is killed before it has left, that is no crash
-- -> {epoch, now, who requested the cancellation of each task or ''}
local now, epoch = now_ms(), false
if ARGV[2] ~= '0' then
  redis.call('HSET', KEYS[5], ARGV[1], 'left')
  redis.call('PEXPIRE', KEYS[5], 3600000)
end
if ARGV[2] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])  -- its remaining tasks may be reclaimed at once
  redis.call('HDEL', KEYS[4], ARGV[1])
else
  epoch = alive(KEYS[1], KEYS[2], ARGV[1], now, tonumber(ARGV[3]))
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[4], ARGV[1], ARGV[4]) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600000)
if redis.call('EXISTS', KEYS[6]) == 1 then
  -- A worker that was suspended or cut off has lost its tasks, but it did not crash. A task whose workers are silent again
  -- and again stops their heartbeats itself (native code that holds Python's lock), so there is an end to this.
  for a = 5, #ARGV do
    local record = crashes_of(KEYS[6], ARGV[a])
    if record and record.worker == ARGV[1] and (record.resumed or 0) < 3 then
      record[record.counted], record.worker = record[record.counted] - 1, nil
      record.resumed = (record.resumed or 0) + 1
      keep_crashes(KEYS[6], ARGV[a], record)
    end
  end
end
local asked = {}
for a = 5, #ARGV do asked[#asked + 1] = redis.call('HGET', KEYS[3], ARGV[a]) or '' end
return { epoch, int(now), asked }
