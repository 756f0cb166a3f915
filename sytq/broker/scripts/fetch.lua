-- running <- queued, and running <- running of a dead consumer: starts at most as many tasks as there are slots.
-- KEYS and ARGV as in _entry.lua
-- -> {0, left, ms until the rate allows one or -1, wake-up id, last ids...} when there is no task,
--    else {1, left, {stream index, entry, id, message, attempts, max, token, permits as `granted` returns them}...}
--    or {2, 0} when an older copy of this Redis has taken its place: what has ended since must not run again
--    left: 1 when dead consumers had entries, and may still have some, or the streams have more than was looked at
local recorded = redis.call('GET', KEYS[14])
if recorded and tonumber(recorded) < tonumber(ARGV[9]) then return { 2, 0 } end

-- Changed limits hold for the tasks that wait, too.
if ARGV[10] == '1' and next(limited_types) then
  limited = limiters()
  for name, settings in pairs(limited_types) do limited.limiter_of_type(name, settings) end
end
if ARGV[10] ~= '0' then
  reclaim(ARGV[10] == '1')
  write(group)  -- they have no place within the limit
end

-- A suspect that waits to run alone (isolate.lua) has a place within limit and rate.
local waiting = (limit > 0 or rate > 0) and redis.call('EXISTS', suspects) or 0
room = math.min(room, room_of(group, FIRST, rate_key, limit, rate, now, window) - waiting)

local wait = -1
if rate > 0 then
  local used = redis.call('ZCARD', rate_key)
  if used >= rate then
    wait = tonumber(redis.call('ZRANGE', rate_key, used - rate, used - rate, 'WITHSCORES')[2]) + window - now
  end
  redis.call('PEXPIRE', rate_key, window)
end

-- Tasks that permits were handed over to (_wait_queue.lua) start first. The read below meets their
-- entries again, and those that reregister.lua added.
local ids = room > 0 and redis.call('LPOP', called, int(room))
if ids then
  local known, records = redis.call('HMGET', live, unpack(ids)), redis.call('HMGET', WAITING, unpack(ids))
  local streams = {}  -- by priority
  for k = FIRST, #KEYS do streams[KEYS[k]:match('^.*:(.*)$')] = k end
  local entries, tasks = {}, {}  -- by stream; by id: one that the read below once met first may be here twice
  for n, id in ipairs(ids) do
    local l = not tasks[id] and unpack_live(known[n])
    local free = l and l.state == 'queued' and l.entry ~= '' and not is_suspect(crash_record(id))
    local k = free and streams[l.priority]
    if k then
      tasks[id], l.record = l, records[n]  -- for `admit`
      entries[k] = entries[k] or {}
      table.insert(entries[k], l.entry)
    end
  end
  for k, its in pairs(entries) do
    for _, option in ipairs({ 'RETRYCOUNT', 1, 'FORCE' }) do its[#its + 1] = option end
    for _, item in ipairs(redis.call('XCLAIM', KEYS[k], group, me, 0, unpack(its))) do
      if item then start_or_wait(k, item[1], item[2], tasks[field(item[2], 'id')]) end
    end
  end
end

write(group)

local function take(k, entry, fields, id, l)
  if l and l.entry ~= entry or not l and is_stray(fields) then
    drop(KEYS[k], group, entry)  -- a second copy: the task has another entry by now, or none
  elseif l and l.state == 'running' then
    -- Started above, or registered again by its worker (reregister.lua): the entry stays with that worker.
    if l.consumer ~= me then redis.call('XCLAIM', KEYS[k], group, l.consumer, 0, entry, 'JUSTID') end
  else
    local record = crash_record(id)
    if l and is_suspect(record) and not is_paused(l.type) then
      park(l, id, fields, record)
      redis.call('HSET', live, id, pack_live(l))
      drop(KEYS[k], group, entry)
    elseif l then
      start_or_wait(k, entry, fields, l)
    else
      start(k, entry, fields)
    end
  end
end

local looked_at = 0  -- a task that is set aside or waits takes no slot, but a script must end
for k = FIRST, #KEYS do
  while room > 0 and looked_at < 500 do
    local reply = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', room, 'STREAMS', KEYS[k], '>')
    if not reply then break end
    local ids = {}
    for n, item in ipairs(reply[1][2]) do ids[n] = field(item[2], 'id') end
    local known = redis.call('HMGET', live, unpack(ids))
    for n, item in ipairs(reply[1][2]) do take(k, item[1], item[2], ids[n], unpack_live(known[n])) end
    write(group)
    looked_at = looked_at + #reply[1][2]
  end
end

if looked_at >= 500 then out[2] = 1 end
if limited then limited.save() end
if #started > 0 then
  redis.call('XADD', events, '*', 'kind', 'started', 'worker', me, 'at', int(now), 'data', cjson.encode(started))
end
if #out > 2 then return out end
local last = redis.call('XREVRANGE', wake_up, '+', '-', 'COUNT', 1)[1]
local ids = { 0, out[2], wait, last and last[1] or '0-0' }
for k = FIRST, #KEYS do
  ids[#ids + 1] = field(redis.call('XINFO', 'STREAM', KEYS[k]), 'last-generated-id')
end
return ids
