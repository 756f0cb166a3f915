-- Prepended to fetch.lua, behind _entry.lua: how an entry becomes a running task. `limiters` is _admit.lua with what it needs,
-- built only when a task names limiters.
local HEAD = '^{"queue_name": "[^"]*", "actor_name": "[^"]*", "kwargs": {}, "options": {"priority": "%a*", "limiters": "([^"]*)"'
local limited

-- The limits of a task's type, '' where it has none but is paused.
local function limits_of_type(l) return limited_types[l.type] or is_paused(l.type) and '' or nil end

local function admit(id, l, message)
  local of_type = limits_of_type(l)
  local names = grants and (l.record and '' or message:match(HEAD) or l.consumer ~= '' and '') or of_type and ''
  if not names then return end
  limited = limited or limiters()
  return limited.admit(id, l, names, message, of_type)
end

-- reclaimed: the outcome of an earlier start is not known and never will be. The attempt of that number begins anew.
-- wanted: the permits that the task starts with, as `admit` returns it.
local function start(k, entry, fields, l, reclaimed, wanted)
  local id, message = field(fields, 'id'), field(fields, 'message')
  if l then
    if not reclaimed then l.attempts = l.attempts + 1 end
    l.token = math.max(l.token + 1, now, min_token)
    l.state, l.consumer, l.entry = 'running', me, entry
    later(2, 'HSET', live, id, pack_live(l))
    started[#started + 1] = { id, int(l.token), l.attempts, reclaimed }
    if rate > 0 then redis.call('ZADD', rate_key, now, id .. ':' .. int(l.token)) end
  else
    l = { attempts = 1, max = 0, token = now }  -- not added by dispatch.lua: the consumer moves it to the dead letters
  end
  room = room - 1
  out[#out + 1] = { k, entry, id, message, l.attempts, l.max, int(l.token), wanted and limited.granted(wanted, int(l.token)) }
end

-- Starts a task whose limiters grant their permits; another one waits in the wait queue of the limiter that refuses. While
-- it is not known who holds the permits of its type, it looks again soon.
local function start_or_wait(k, entry, fields, l)
  local id, message = field(fields, 'id'), field(fields, 'message')
  if limits_of_type(l) and not grants then
    delay(delayed_tasks, bodies, WAKE_UP, id, now + liveness / 2, message)
  else
    local wanted, refused = admit(id, l, message)
    if not refused then return start(k, entry, fields, l, false, wanted) end
    limited.wait_for(id, l, wanted, refused, message)
  end
  l.state, l.entry, l.consumer = 'retrying', '', WAITED
  later(2, 'HSET', live, id, pack_live(l))
  drop_later(KEYS[k], entry)
end
