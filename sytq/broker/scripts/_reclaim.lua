-- Prepended to fetch.lua, behind _start.lua: running <- running of a dead consumer, while there are slots. A task that
-- must not run again becomes cancelled, dead or queued instead. What does not fit stays with the dead consumer, for all
-- workers: each fetches again at once while something is left (out[2]), so a dead worker's tasks start before new ones.
local held = {}  -- the entries that this worker tracks, or gets by this call
local claims = 500  -- a script must end: ending a task takes no slot

-- Whether an entry is an old copy: its task has ended, or has another entry.
local function is_copy(entry, fields)
  local l = unpack_live(redis.call('HGET', live, field(fields, 'id')))
  if not l then return is_stray(fields) end
  return TERMINAL[l.state] or l.entry ~= entry
end

-- Notes what became of the worker of a running task, and returns the task's record of crashes. `how`: 'left' after a
-- request to stop, which is no crash; what the isolated process died of, as JSON; false when only its lease expired.
local function note_crash(id, worker, how)
  local record = crash_record(id) or { crashes = 0, level = 0, alone = 0, since = now }
  if how == 'left' and record.crashes == 0 then return nil end
  if how ~= 'left' then
    local counted = not record.together and 'crashes' or record.together == 1 and 'alone' or 'level'
    local calm = crashes_of(crashes, 'calm') or {}
    calm['level ' .. int(record.level)] = counted ~= 'crashes' or nil
    record[counted] = record[counted] + 1
    if counted == 'level' then calm['level ' .. int(record.level)] = nil end
    if record.crashes > 1 then keep_crashes(crashes, 'calm', calm) end
    record.worker, record.counted = worker, counted
  end
  record.together = nil
  keep_crashes(crashes, id, record)
  any_crashes = true
  return record
end

-- The event to record for a reclaimed task that must not run again here; nil when it may run.
local function other_end(id, l, record, how)
  local cancelled_by = redis.call('HGET', cancels, id)
  if cancelled_by then
    return { state = 'cancelled', outcome = 'cancelled', error = 'cancelled by ' .. cancelled_by }
  end
  if record and record.alone >= max_crashes then
    local known, died = pcall(cjson.decode, how or '')
    died = known and type(died) == 'table' and died or { how = 'its lease expired' }
    local why = 'the worker died each of the ' .. int(record.alone) .. ' times that this task ran alone in it: ' .. died.how
    return { state = 'dead', outcome = 'dead', fingerprint = 'worker-died', error = why, detail = { log = died.log } }
  end
  if is_suspect(record) or is_paused(l.type) then return { state = 'queued', outcome = 'lost' } end
end

-- unused: the attempt is not used up.
local function end_otherwise(k, entry, fields, l, event, record, unused)
  local id = field(fields, 'id')
  if unused then l.attempts = l.attempts - 1 end
  event.worker, event.finished, event.attempts = l.consumer, now, l.attempts
  -- The event first: without the right to it the task must not look ended.
  redis.call('XADD', events, '*', 'kind', 'ended', 'id', id, 'token', int(l.token), 'data', cjson.encode(event))
  if event.state == 'queued' and (is_paused(l.type) or not is_suspect(record)) then
    held[k .. ':' .. entry] = true  -- the stream has it until `write`
    return start_or_wait(k, entry, fields, l)
  elseif event.state == 'queued' then
    park(l, id, fields, record)
  else
    l.state, l.consumer, l.entry = event.state, '', ''
  end
  redis.call('HSET', live, id, pack_live(l))
  drop(KEYS[k], group, entry)
  redis.call('HDEL', cancels, id)
  if TERMINAL[event.state] then redis.call('HINCRBY', stats, l.type .. ':' .. event.state, 1) end
end

-- `worker` has died; nil for this worker, which lost a reply. how: as in note_crash.
local function reclaim_entry(k, entry, fields, worker, how)
  if is_copy(entry, fields) then return drop(KEYS[k], group, entry) end
  local id = field(fields, 'id')
  local l = unpack_live(redis.call('HGET', live, id))
  local began = not l or l.state == 'running'  -- else Redis refused the fetch halfway: no attempt has begun
  local record = l and (worker and began and note_crash(id, worker, how) or crash_record(id))
  local event = l and other_end(id, l, record, how)
  if event then
    return end_otherwise(k, entry, fields, l, event, record, began and (not worker or event.state == 'queued'))
  end
  if l and worker and began then redis.call('HINCRBY', stats, l.type .. ':reclaimed', 1) end
  held[k .. ':' .. entry] = true
  if not began then return start_or_wait(k, entry, fields, l) end
  -- It waits where its type refuses, and the permit of its attempt was freed meanwhile. Where another limiter does, it starts
  -- with the permit of its type alone: its attempt waits for the others as for any further one.
  local wanted, refused
  if l then wanted, refused = admit(id, l, field(fields, 'message')) end
  if refused and wanted.type_refuses and #wanted.own[wanted.own_type.name] == 0 then
    return end_otherwise(k, entry, fields, l, { state = 'queued', outcome = 'lost' }, record, true)
  end
  if refused then
    wanted.limiters = { wanted.own_type }
    wanted = wanted.own_type and wanted
  end
  start(k, entry, fields, l, true, wanted)
end

-- Claims a consumer's entries, except those in `skip`.
local function take_over(k, consumer, skip)
  if room <= 0 or claims <= 0 then return end
  local worker = consumer ~= me and consumer or nil
  local how = worker and redis.call('HGET', departed, worker)
  for _, pending in ipairs(redis.call('XPENDING', KEYS[k], group, '-', '+', room + #ARGV, consumer)) do
    if room <= 0 or claims <= 0 then return end
    local entry = pending[1]
    if not skip[k .. ':' .. entry] then
      claims = claims - 1
      local claimed = redis.call('XCLAIM', KEYS[k], group, me, 0, entry)[1]
      if not claimed then
        redis.call('XACK', KEYS[k], group, entry)
      elseif not skip[k .. ':' .. field(claimed[2], 'id')] then  -- else reregister.lua has just added the entry
        reclaim_entry(k, entry, claimed[2], worker, how)
      end
    end
  end
end

local function reclaim(own)
  local stale = now - liveness
  for a = 13, #ARGV do held[ARGV[a]] = true end
  for k = FIRST, #KEYS do
    for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[k], group)) do
      local name, pending = field(info, 'name'), field(info, 'pending')
      if name == me then
        -- Entries of this worker that it does not track: the reply of an earlier fetch was lost.
        if pending > 0 and own then take_over(k, me, held) end
      else
        local seen = tonumber(redis.call('ZSCORE', workers, name) or 0)
        if seen < stale then
          if pending > 0 then
            take_over(k, name, {})
            out[2] = 1
          elseif seen < stale - 60000 then
            redis.call('XGROUP', 'DELCONSUMER', KEYS[k], group, name)
          end
        end
      end
    end
  end
end
