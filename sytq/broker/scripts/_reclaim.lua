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

-- The event to record for a reclaimed task that must not run again; nil when it may run. `mine`: this worker fetched it
-- before, and the reply was lost.
local function other_end(id, l, deaths, mine)
  local cancelled_by = redis.call('HGET', cancels, id)
  if cancelled_by then
    return { state = 'cancelled', outcome = 'cancelled', error = 'cancelled by ' .. cancelled_by }
  end
  if not mine and (l.max > 0 and l.attempts >= l.max or l.max == 0 and deaths >= max_deaths) then
    -- Its workers keep dying: it ends here rather than killing the next one.
    local why = 'the worker died at each of its ' .. int(deaths) .. ' last starts (killed, out of memory or crashed)'
    return { state = 'dead', outcome = 'dead', fingerprint = 'worker-died', error = why }
  end
  if is_paused(l) then return { state = 'queued', outcome = 'lost' } end
end

local function end_otherwise(k, entry, fields, l, event, mine)
  local id = field(fields, 'id')
  if event.state == 'queued' then park(id, fields) end
  if mine then l.attempts = l.attempts - 1 end
  event.worker, event.finished, event.attempts = l.consumer, now, l.attempts
  l.state, l.consumer, l.entry = event.state, '', ''
  -- The event first: without the right to it the task must not look ended.
  redis.call('XADD', events, '*', 'kind', 'ended', 'id', id, 'token', int(l.token), 'data', cjson.encode(event))
  redis.call('HSET', live, id, pack_live(l))
  drop(KEYS[k], group, entry)
  redis.call('HDEL', cancels, id)
  if TERMINAL[event.state] then redis.call('HINCRBY', stats, l.type .. ':' .. event.state, 1) end
end

local function reclaim_entry(k, entry, fields, deaths, mine)
  if is_copy(entry, fields) then return drop(KEYS[k], group, entry) end
  local id = field(fields, 'id')
  local l = unpack_live(redis.call('HGET', live, id))
  local began = not l or l.state == 'running'  -- else Redis refused the fetch halfway: no attempt has begun
  mine = mine and began
  local event = l and other_end(id, l, deaths, mine)
  if event then return end_otherwise(k, entry, fields, l, event, mine) end
  held[k .. ':' .. entry] = true
  start(k, entry, fields, began, not mine)
end

-- Claims a consumer's entries, except those in `skip`.
local function take_over(k, consumer, skip)
  if room <= 0 or claims <= 0 then return end
  for _, pending in ipairs(redis.call('XPENDING', KEYS[k], group, '-', '+', room + #ARGV, consumer)) do
    if room <= 0 or claims <= 0 then return end
    local entry = pending[1]
    if not skip[k .. ':' .. entry] then
      claims = claims - 1
      -- A lost reply is not a worker's death and uses no attempt.
      local mine = consumer == me
      local deliveries = pending[4] + (mine and 0 or 1)
      local claimed = redis.call('XCLAIM', KEYS[k], group, me, 0, entry, 'RETRYCOUNT', deliveries)[1]
      if not claimed then
        redis.call('XACK', KEYS[k], group, entry)
      elseif not skip[k .. ':' .. field(claimed[2], 'id')] then  -- else reregister.lua has just added the entry
        reclaim_entry(k, entry, claimed[2], pending[4], mine)
      end
    end
  end
end

local function reclaim(own)
  local stale = now - liveness
  for a = 10, #ARGV do held[ARGV[a]] = true end
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
