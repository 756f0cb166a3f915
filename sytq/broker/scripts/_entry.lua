-- Prepended to fetch.lua, behind _crashes.lua: its arguments, and what a task's entry says of it.
-- KEYS live events workers stats parked rate queue-wake-up epoch cancels called crashes departed suspects recorded
--      delayed bodies wake-up, then limiters ... paused as in _limiter_keys.lua, then the queue's four streams in the
--      order to look
-- ARGV group consumer room limit rate window_ms lease_ms max_crashes recorded reclaim permits types tracked...
--      limit: most running in this queue; rate: most attempts begun in any window_ms; 0 is none. recorded: what
--      this Redis said of its own key `recorded` at the worker's last look. reclaim: 1 to look for
--      entries of dead consumers and for own entries that are not tracked, 2 for the former only. permits: the Redis
--      (epoch) in which this worker grants permits, '' any, '-' none. types: JSON of the limited types and their
--      settings, or ''. tracked: stream index ':' entry, and stream index
--      ':' task id, as reregister.lua may have added an entry whose id this worker does not know yet
local live, events, workers, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local parked, rate_key, wake_up, cancels, called = KEYS[5], KEYS[6], KEYS[7], KEYS[9], KEYS[10]
local crashes, departed, suspects = KEYS[11], KEYS[12], KEYS[13]
local delayed_tasks, bodies = KEYS[15], KEYS[16]
local LIVE, WORKERS, WAKE_UP = live, workers, KEYS[17]
local LIMITERS, SETTINGS, PERMITS, QUEUE, WAITING, ACQUIRED, DUE, CONFIGURED, PAUSED = unpack(KEYS, 18, 26)
local FIRST = 27
local group, me = ARGV[1], ARGV[2]
local room, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local rate, window = tonumber(ARGV[5]), tonumber(ARGV[6])
local liveness, max_crashes = tonumber(ARGV[7]), tonumber(ARGV[8])
local now = now_ms()
local out, started = { 1, 0 }, {}
-- Every token given here is above this Redis' epoch, also on a clock that was set back: ack.lua relies on it.
local epoch = alive(workers, KEYS[8], me, now, liveness)
local min_token = tonumber(epoch) + 1
local grants = ARGV[11] == '' or ARGV[11] == epoch
local limited_types = ARGV[12] ~= '' and cjson.decode(ARGV[12]) or {}

local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
  return ''
end

-- Whether the index does not know a task that dispatch.lua added: that call was refused halfway, or the task has ended and
-- was forgotten. The reconciler dispatches it again if it has not ended.
local function is_stray(fields)
  return field(fields, 'message'):find('"message_id": ' .. cjson.encode(field(fields, 'id')), 1, true) ~= nil
end

local any_crashes = redis.call('EXISTS', crashes) == 1
local function crash_record(id) return any_crashes and crashes_of(crashes, id) or nil end

-- A suspect waits beside its stream.
local function park(l, id, fields, record)
  redis.call('HSET', parked, id, field(fields, 'message'))
  if l.consumer == GRANTED or l.consumer == WAITED then redis.call('HDEL', WAITING, id) end
  redis.call('ZADD', suspects, int(record.since), id)
  l.state, l.consumer, l.entry = 'queued', SUSPECT, ''
end

