-- Prepended to the scripts that count crashes: HASH task id -> its crashes in a row, as JSON. A crash uses no attempt.
--   crashes: of ordinary workers; from the second on the task is a suspect, and runs in isolated processes only
--   level: crashes of isolated processes that had begun with several suspects
--   alone: crashes of isolated processes that had begun with this task alone; only these count against it
--   A task that crashed alone is run alone until it is dead or ends; the others go by their level, the highest first.
--   together: with how many suspects its isolated process began    since: of its first crash, in ms
--   worker, counted: the worker of the latest crash, and what it added to, so that it can be taken back (heartbeat.lua)
--   resumed: how often that was done
-- Its field `calm` is for the levels whose culprit is among those that crashed again, so that the rest need not be halved.
local function crashes_of(key, id)
  local found = redis.call('HGET', key, id)
  return found and cjson.decode(found)
end

local function keep_crashes(key, id, record)
  redis.call('HSET', key, id, cjson.encode(record))
  redis.call('PEXPIRE', key, 604800000)  -- a week without a crash
end

local function is_suspect(record) return record and record.crashes >= 2 end
