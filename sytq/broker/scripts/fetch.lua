-- running <- queued, and running <- running of a dead consumer: take at most what there is room for.
-- KEYS live events workers stats paused parked rate queue-bell epoch cancels called, then the queue's four streams in the
--      order to look
-- ARGV group consumer room limit rate window_ms liveness_ms max_deaths sweep held...
--      limit: most running in this queue; rate: most starts in any window_ms; 0 is none. held: stream index ':' entry,
--      and stream index ':' task id, as reregister.lua may have made an entry anew whose id this worker does not know yet
-- -> {0, ms until the rate allows one or -1, bell id, last ids...} when there is nothing,
--    else {1, {stream index, entry, id, message, attempts, max, token}...}
local live, events, workers, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local paused, parked, rate_key, bell = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local FIRST = 12
local group, me = ARGV[1], ARGV[2]
local room, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local rate, window = tonumber(ARGV[5]), tonumber(ARGV[6])
local now = now_ms()
local stale = now - tonumber(ARGV[7])
local max_deaths = tonumber(ARGV[8])
local out, started = { 1 }, {}
local held = {}  -- what this worker runs, or is given by this call
-- Every start here is younger than this Redis, also on a clock that was set back: ack.lua knows by it.
local youngest = tonumber(alive(workers, KEYS[9], me, now, tonumber(ARGV[7]))) + 1

local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
  return ''
end

local function drop(stream, entry)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
end

local pauses = redis.call('EXISTS', paused) == 1
local function is_paused(l) return pauses and redis.call('HEXISTS', paused, l.type) == 1 end

-- Whether an entry is only a copy: its task has ended, or stands at another entry.
local function elsewhere(entry, fields)
  local l = unpack_live(redis.call('HGET', live, field(fields, 'id')))
  return l and (TERMINAL[l.state] or l.entry ~= entry)
end

-- `again`: nobody knows how an earlier start of it ended, nor ever will. `counts`: this one uses an attempt.
local function start(k, entry, fields, again, counts)
  local id, message = field(fields, 'id'), field(fields, 'message')
  local l = unpack_live(redis.call('HGET', live, id))
  if l then
    if counts then l.attempts = l.attempts + 1 end
    l.token = math.max(l.token + 1, now, youngest)
    l.state, l.consumer, l.entry = 'running', me, entry
    redis.call('HSET', live, id, pack_live(l))
    started[#started + 1] = { id, int(l.token), l.attempts, again }
    if again and counts then redis.call('HINCRBY', stats, l.type .. ':reclaimed', 1) end
    if rate > 0 then redis.call('ZADD', rate_key, now, id .. ':' .. int(l.token)) end
  else
    l = { attempts = 1, max = 0, token = now }  -- not made by dispatch.lua: the broker sets it aside
  end
  room = room - 1
  out[#out + 1] = { k, entry, id, message, l.attempts, l.max, int(l.token) }
end

-- A task whose type is paused waits beside its stream.
local function set_aside(id, fields) redis.call('HSET', parked, id, field(fields, 'message')) end

-- A running task whose worker died, or (`mine`) that was given to this one with a reply that was lost: whether it is
-- not to be started again, and then what becomes of it.
local function stays(k, entry, fields, deaths, mine)
  local id = field(fields, 'id')
  local l = unpack_live(redis.call('HGET', live, id))
  if not l then return false end
  local event = { worker = l.consumer, finished = now }
  local cancelled_by = redis.call('HGET', KEYS[10], id)
  if cancelled_by then
    event.state, event.outcome, event.error = 'cancelled', 'cancelled', 'cancelled by ' .. cancelled_by
    redis.call('HDEL', KEYS[10], id)
  elseif not mine and (l.max > 0 and l.attempts >= l.max or l.max == 0 and deaths >= max_deaths) then
    -- Its workers keep dying: it ends here rather than killing the next one.
    event.state, event.outcome, event.fingerprint = 'dead', 'dead', 'worker-died'
    event.error = 'the worker died at each of its ' .. int(deaths) .. ' last starts (killed, out of memory or crashed)'
  elseif is_paused(l) then
    event.state, event.outcome = 'queued', 'lost'
    set_aside(id, fields)
  else
    return false
  end
  if TERMINAL[event.state] then redis.call('HINCRBY', stats, l.type .. ':' .. event.state, 1) end
  if mine then l.attempts = l.attempts - 1 end
  l.state, l.consumer, l.entry, event.attempts = event.state, '', '', l.attempts
  redis.call('HSET', live, id, pack_live(l))
  redis.call('XADD', events, '*', 'kind', 'ended', 'id', id, 'token', int(l.token), 'data', cjson.encode(event))
  drop(KEYS[k], entry)
  return true
end

local function take_over(k, consumer, skip)
  for _, pending in ipairs(redis.call('XPENDING', KEYS[k], group, '-', '+', room + #ARGV, consumer)) do
    if room <= 0 then return end
    local entry = pending[1]
    if not skip[k .. ':' .. entry] then
      -- What is ours was lost with a reply, which is no death of a worker and uses no attempt.
      local mine = consumer == me
      local deaths = pending[4] + (mine and 0 or 1)
      local claimed = redis.call('XCLAIM', KEYS[k], group, me, 0, entry, 'RETRYCOUNT', deaths)[1]
      if not claimed then
        redis.call('XACK', KEYS[k], group, entry)
      elseif skip[k .. ':' .. field(claimed[2], 'id')] then
        -- Its owner will soon know that this is its entry.
      elseif elsewhere(entry, claimed[2]) then
        drop(KEYS[k], entry)
      elseif not stays(k, entry, claimed[2], pending[4], mine) then
        held[k .. ':' .. entry] = true
        start(k, entry, claimed[2], true, not mine)
      end
    end
  end
end

if ARGV[9] == '1' then
  for a = 10, #ARGV do held[ARGV[a]] = true end
  for k = FIRST, #KEYS do
    for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[k], group)) do
      local name, pending = field(info, 'name'), field(info, 'pending')
      if name == me then
        -- Entries that are ours and that we do not hold: the reply of an earlier fetch was lost.
        if pending > 0 then take_over(k, me, held) end
      else
        local seen = tonumber(redis.call('ZSCORE', workers, name) or 0)
        if seen < stale then
          if pending > 0 then
            take_over(k, name, {})
          elseif seen < stale - 60000 then
            redis.call('XGROUP', 'DELCONSUMER', KEYS[k], group, name)
          end
        end
      end
    end
  end
end

if limit > 0 then
  local running = 0
  for k = FIRST, #KEYS do running = running + redis.call('XPENDING', KEYS[k], group)[1] end
  room = math.min(room, limit - running)
end

local wait = -1
if rate > 0 then
  redis.call('ZREMRANGEBYSCORE', rate_key, '-inf', now - window)
  local used = redis.call('ZCARD', rate_key)
  room = math.min(room, rate - used)
  if used >= rate then
    wait = tonumber(redis.call('ZRANGE', rate_key, used - rate, used - rate, 'WITHSCORES')[2]) + window - now
  end
  redis.call('PEXPIRE', rate_key, window)
end

local function level(priority)
  for k = FIRST, #KEYS do if KEYS[k]:match('([^:]*)$') == priority then return k end end
end

-- Whom a gate has called (promote.lua) passes those who stand before it: a place is kept for it, and idle until it comes.
-- Its entry is met again on the way, as one that reregister.lua made.
if room > 0 then
  for _, id in ipairs(redis.call('LPOP', KEYS[11], int(room)) or {}) do
    local l = unpack_live(redis.call('HGET', live, id))
    local k = l and l.state == 'queued' and l.entry ~= '' and not is_paused(l) and level(l.priority)
    local claimed = k and redis.call('XCLAIM', KEYS[k], group, me, 0, l.entry, 'RETRYCOUNT', 1, 'FORCE')[1]
    if claimed then start(k, l.entry, claimed[2], false, true) end
  end
end

local looked_at = 0  -- setting aside takes no room, but a script must end

for k = FIRST, #KEYS do
  while room > 0 and looked_at < 500 do
    local reply = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', room, 'STREAMS', KEYS[k], '>')
    if not reply then break end
    for _, item in ipairs(reply[1][2]) do
      local entry, fields = item[1], item[2]
      looked_at = looked_at + 1
      local l = unpack_live(redis.call('HGET', live, field(fields, 'id')))
      if l and l.entry ~= entry then
        drop(KEYS[k], entry)  -- a second copy of a task that is elsewhere by now
      elseif l and l.state == 'running' then
        -- Entered by the worker that runs it (reregister.lua), or called: it stays that worker's.
        redis.call('XCLAIM', KEYS[k], group, l.consumer, 0, entry, 'JUSTID')
      elseif l and is_paused(l) then
        set_aside(field(fields, 'id'), fields)
        l.entry = ''
        redis.call('HSET', live, field(fields, 'id'), pack_live(l))
        drop(KEYS[k], entry)
      else
        start(k, entry, fields, false, true)
      end
    end
  end
end

if #started > 0 then
  redis.call('XADD', events, '*', 'kind', 'started', 'worker', me, 'at', int(now), 'data', cjson.encode(started))
end
if #out > 1 then return out end
local heard = redis.call('XREVRANGE', bell, '+', '-', 'COUNT', 1)[1]
local ids = { 0, wait, heard and heard[1] or '0-0' }
for k = FIRST, #KEYS do
  ids[#ids + 1] = field(redis.call('XINFO', 'STREAM', KEYS[k]), 'last-generated-id')
end
return ids
