-- Prepended to fetch.lua, behind _wait_queue.lua: the permits of the limiters that a task needs. A limiter that no
-- attempt has acquired lately has no known limits: the task starts without permits, and its attempt acquires them.
-- A task that waits is called; should nobody do so, it looks again in time: the estimated wait times a factor, plus a
-- minute, at most ten; after a day at a pause, or each of its tasks would be fetched and refused again and again.
local FALLBACK_FACTOR, FALLBACK_MS, MAX_WAIT_MS, PAUSED_MS = 1.2, 60000, 600000, 86400000
local TIMESTAMP = '"message_timestamp": (%d+)}$'
local FETCHED = '0'  -- the id of the permit that a fetch grants: a task has one of a limiter
local unknown, refusals = {}, {}  -- by name, in this call; refusals: {limiter, created, ms, step}

-- Whether all limiters have handed their permits over to the task, and none has taken its back, was paused or lowered
-- since, or has a breaker that opened.
local function is_granted(wanted, l)
  if l.consumer ~= GRANTED or not wanted.record or not wanted.record.granted then return false end
  for _, limiter in ipairs(wanted.limiters) do
    local own, s = wanted.own[limiter.name], limiter.state
    if #own ~= 1 or pause_of(limiter) or held(limiter) > concurrency(limiter) then return false end
    if s.breaker ~= 'closed' and not s.probes[own[1]] then return false end
  end
  return true
end

-- Takes back what was handed over to a task that may not start with it. Permits of its attempts keep their calls counted.
local function give_back(wanted)
  for _, limiter in ipairs(wanted.limiters) do
    for _, permit in ipairs(wanted.own[limiter.name]) do
      if select(3, permit:match(PERMIT)) == FETCHED then
        remove_permits(limiter, permit)
        uncount(limiter, permit)
      end
    end
    wanted.own[limiter.name] = held_by(wanted.id, limiter.name)
  end
end

-- The limiter of a task type, which no attempt acquires: workers state its limits with each fetch; '' where it has none.
local function limiter_of_type(name, settings)
  local limiter = get('type:' .. name)
  if settings ~= '' or not limiter.stated then set_limits(limiter, settings ~= '' and settings or NO_LIMITS) end
  return limiter
end

-- Returns what to grant, and the limiter that refuses, if one does. Nothing when the attempt acquires its permits itself.
-- names: those of its submission; a task that has waited needs those that it waited for. of_type: the limits of its type.
local function admit(id, l, names, message, of_type)
  local w = l.record and cjson.decode(l.record) or l.record == nil and l.consumer ~= '' and record(id)
  if w then names = table.concat(w.gates, ' ') end
  local own_type = of_type and limiter_of_type(l.type, of_type)
  local created = w and w.created or rank(message:sub(-64):match(TIMESTAMP) or now, l.priority)
  local wanted = { id = id, cost = w and w.units or 0, permit = FETCHED, created = created, limiters = { own_type }, own = {},
    own_type = own_type, record = w }
  for name in names:gmatch('%S+') do
    local limiter = not unknown[name] and get(name)
    if not limiter or not limiter.stated then
      unknown[name], loaded[name] = true, nil
      wanted.limiters = { own_type }
      break
    end
    if limiter ~= own_type then wanted.limiters[#wanted.limiters + 1] = limiter end
  end
  if #wanted.limiters == 0 then return end
  for _, limiter in ipairs(wanted.limiters) do
    wanted.own[limiter.name] = (l.token > 0 or l.consumer == GRANTED) and held_by(id, limiter.name) or {}
  end
  wanted.granted = is_granted(wanted, l)
  if wanted.granted then return wanted end
  if l.consumer == GRANTED then give_back(wanted) end
  local refused
  for _, limiter in ipairs(wanted.limiters) do
    local known = refusals[limiter.name]
    if known and known.created <= wanted.created then
      if limiter == own_type then wanted.type_refuses = true end
      known.ms = known.ms + known.step
      return wanted, known
    end
    local reason, ms = judge(limiter, wanted, wanted.own[limiter.name])
    if reason and limiter == own_type then wanted.type_refuses = true end
    if reason and (not refused or ms > refused.ms) then
      local most = concurrency(limiter)
      local step = pause_of(limiter) and 0 or (limiter.state.took or UNKNOWN_MS) / math.min(most, 1000)
      refused = { limiter = limiter, created = wanted.created, ms = ms, step = step }
      refusals[limiter.name] = refused
    end
  end
  return wanted, refused
end

-- Has the task wait for the limiter that refused it.
local function wait_for(id, l, wanted, refused, message)
  local w, limiter = wanted.record, refused.limiter
  if w then forget_wait(id, w) end
  local gates = {}
  for n, each in ipairs(wanted.limiters) do gates[n] = each.name end
  local new = { gates = gates, at = limiter.name, created = wanted.created, units = wanted.cost, token = int(l.token), fetch = true }
  local wait = math.min(math.max(refused.ms, 0) * FALLBACK_FACTOR + FALLBACK_MS, MAX_WAIT_MS)
  if pause_of(limiter) then wait = PAUSED_MS end
  later(1, 'ZADD', delayed_tasks, int(now + wait), id)
  later(1, 'HSET', bodies, id, message)
  later(1, 'HSET', WAITING, id, cjson.encode(new))
  later(1, 'ZADD', QUEUE, 0, place(id, new))
  look_within(limiter, 500)
end

-- Grants the permits, or makes those handed over the attempt's. -> {since when, the limiter that the task waited for or '',
-- cost, limiter, limits or '', ...}
local function granted(wanted, token)
  local w, at = wanted.record, now
  wanted.token = token
  for _, limiter in ipairs(wanted.limiters) do
    local own = wanted.own[limiter.name]
    if wanted.granted then
      at = tonumber(own[1]:match('^.*|(.*)$'))
      enter(limiter, wanted, own, at)
    else
      grant(limiter, wanted, own)
    end
  end
  if w then forget_wait(wanted.id, w) end
  local out = { int(at), w and w.fetch and w.at or '', int(wanted.cost) }
  for _, limiter in ipairs(wanted.limiters) do
    -- Where it refuses the calls of some workers alone, the attempt asks with what it calls with.
    out[#out + 1], out[#out + 2] = limiter.name, limiter.state.refused and '' or limiter.stated
  end
  return out
end

return { limiter_of_type = limiter_of_type, admit = admit, wait_for = wait_for, granted = granted, save = save }
