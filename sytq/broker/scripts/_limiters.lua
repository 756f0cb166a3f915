-- Prepended to the gate scripts, behind _state_index.lua: what docs/gates.md calls a gate, a place, the line and a promise.
-- All gates stand in the same keys, as a task that waits at one gate may need others too, which only its record names.
-- In the sorted sets PLACES, LINE and CALLS every score is 0 and the members sort as text:
--   PLACES  gate|task|token|passage|begun     who is inside
--   LINE    gate|0|created|task               who was promised a place and is on the way; the oldest task first
--           gate|1|created|task               who waits
--   CALLS   gate|begun|task|passage|units     the passages begun within the gate's window
-- ARGV[1] is the liveness in ms in every one of them.
local LIVE, WORKERS, BELL, EPOCH, GATES, SETTINGS, PLACES, LINE, WAITING, CALLS, DUE, PROMISES = unpack(KEYS, 1, 12)
local now = now_ms()
local liveness = tonumber(ARGV[1])
local RESERVED_MS = 5000     -- for how long a promised place is kept free
local MOST_WAITING = 10000   -- remembered per gate; who comes later finds its way by its fallback time alone
local UNKNOWN_MS = 20000     -- a passage's length while none is known
local START = 10             -- an adaptive limit begins here
local PLACE = '^[^|]*|(.*)|(%d+)|(%x+)|(%d+)$'
local NO_LIMITS = '{"running":0,"adaptive":false,"calls":0,"units":0,"window":60000}'

local function pad(ms) return string.format('%013.0f', ms) end

-- The members of one gate in a sorted set: what begins with "gate|..." (the character behind | is }).
local function of(...)
  local prefix = table.concat({ ... }, '|')
  return '[' .. prefix .. '|', '(' .. prefix .. '}'
end

local function tally(key, ...)
  local from, to = of(...)
  return redis.call('ZLEXCOUNT', key, from, to)
end

-- The breaker

local function become(g, state)
  g.is.breaker, g.is.at, g.is.from, g.is.ok, g.is.bad, g.is.probes = state, now, now, 0, 0, {}
  g.is.till = state == 'open' and now + g.set.breaker.timeout or nil
  if state ~= 'half_open' then g.is.why = nil end
end

-- What time alone changes.
local function advance(g)
  local is, breaker = g.is, g.set.breaker
  if is.pause and is.pause.till > 0 and is.pause.till <= now then is.pause = nil end
  if not breaker then
    if is.breaker ~= 'closed' then become(g, 'closed') end
  elseif is.breaker == 'open' then
    if is.till <= now then become(g, 'half_open') end
  elseif is.breaker == 'closed' and is.from + breaker.interval <= now then
    is.from, is.ok, is.bad = now, 0, 0
  end
end

-- How a passage ended. The results of those begun before the breaker last changed its mind say nothing of now.
local function judge(g, place, begun, outcome)
  local is, breaker = g.is, g.set.breaker
  if not breaker or is.breaker == 'open' or begun < is.at then return end
  local probe = is.probes[place]
  is.probes[place] = nil
  if outcome == 'ignored' or (is.breaker == 'half_open' and not probe) then return end
  if outcome == 'ok' then is.ok = is.ok + 1 else is.bad = is.bad + 1 end
  local all = is.ok + is.bad
  if is.breaker == 'half_open' then
    if is.bad > 0 then
      become(g, 'open')
      is.why = 'a call failed that was let through to try'
    elseif is.ok >= breaker.max_requests then
      become(g, 'closed')
    end
  elseif all >= breaker.min_calls and is.bad / all >= breaker.fail_threshold then
    local why = int(is.bad) .. ' of ' .. int(all) .. ' calls failed'
    become(g, 'open')
    is.why = why
  end
end

-- A gate, as it is now. `is` is what Redis keeps of it, `set` are its limits as the last passage stated them.

local loaded = {}

local function gate(name)
  local g = loaded[name]
  if not g then
    local kept, set = redis.call('HGET', GATES, name), redis.call('HGET', SETTINGS, name)
    g = { name = name, kept = kept, stated = set, set = cjson.decode(set or NO_LIMITS),
      is = kept and cjson.decode(kept) or { breaker = 'closed', at = now, from = now, ok = 0, bad = 0, units = 0, probes = {} } }
    loaded[name] = g
    advance(g)
  end
  return g
end

local function state(g, text)
  if text ~= g.stated then
    redis.call('HSET', SETTINGS, g.name, text)
    g.stated, g.set = text, cjson.decode(text)
    advance(g)
  end
end

-- The loop looks after this gate in at most so many ms.
local function look_after(g, ms) redis.call('ZADD', DUE, 'LT', int(now + ms), g.name) end

local function save()
  for name, g in pairs(loaded) do
    local text = cjson.encode(g.is)
    if text ~= g.kept then redis.call('HSET', GATES, name, text) end
    if not g.kept then look_after(g, 60000) end
  end
end

-- Room

local function limit(g)
  if g.set.running == 0 then return math.huge end
  if not g.set.adaptive then return g.set.running end
  if not g.is.limit then g.is.limit, g.is.rising = math.min(START, g.set.running), true end
  return math.max(1, math.min(math.floor(g.is.limit), g.set.running))
end

local freshness = {}
local newest

-- Against the newest heartbeat rather than the clock: while Redis was away nobody could give one.
local function is_alive(consumer)
  if freshness[consumer] == nil then
    newest = newest or tonumber(redis.call('ZREVRANGE', WORKERS, 0, 0, 'WITHSCORES')[2] or 0)
    local seen = tonumber(redis.call('ZSCORE', WORKERS, consumer) or 0)
    freshness[consumer] = seen > 0 and seen >= newest - liveness
  end
  return freshness[consumer]
end

-- Give up the places of starts that are over: the task ended, runs elsewhere by now, or its worker is silent. Whether it
-- looked: not twice at a moment.
local function prune(g)
  if g.is.pruned and now - g.is.pruned < 200 then return false end
  g.is.pruned = now
  local first, last = of(g.name)
  local found = redis.call('ZRANGEBYLEX', PLACES, g.is.cursor or first, last, 'LIMIT', 0, 100)
  g.is.cursor = #found == 100 and '(' .. found[100] or nil
  for _, place in ipairs(found) do
    local id, token = place:match(PLACE)
    local l = unpack_live(redis.call('HGET', LIVE, id))
    if not (l and l.state == 'running' and int(l.token) == token and is_alive(l.consumer)) then
      redis.call('ZREM', PLACES, place)
    end
  end
  return true
end

-- Probes that are still inside.
local function probing(g)
  local n = 0
  for place in pairs(g.is.probes) do
    if redis.call('ZSCORE', PLACES, place) then n = n + 1 else g.is.probes[place] = nil end
  end
  return n
end

-- How many passages began within the window; `g.is.units` is the sum of their units.
local function begun(g)
  if g.set.calls == 0 and g.set.units == 0 then return 0 end
  local first = of(g.name)
  local old = redis.call('ZRANGEBYLEX', CALLS, first, '(' .. g.name .. '|' .. pad(now - g.set.window + 1), 'LIMIT', 0, 500)
  for _, call in ipairs(old) do g.is.units = g.is.units - tonumber(call:match('(%d+)$')) end
  if #old > 0 then redis.call('ZREM', CALLS, unpack(old)) end
  local n = tally(CALLS, g.name)
  if n == 0 then g.is.units = 0 end
  return n
end

-- In how many ms the k-th (0, 1, ...) of the passages in the window leaves it; those to come take as long as these.
local function leaves(g, k, n)
  local rounds = math.floor(k / n)
  local first = redis.call('ZLEXCOUNT', CALLS, '-', '(' .. g.name .. '|')
  local call = redis.call('ZRANGE', CALLS, first + k % n, first + k % n)[1]
  return tonumber(call:match('^[^|]*|(%d+)')) + g.set.window * (1 + rounds) - now
end

-- Why a passage cannot begin with so many others inside, promised a place and waiting before it, and in about how many
-- ms it could; or nil.
local function refusal(g, inside, promised, waiting, units)
  local is, set, breaker = g.is, g.set, g.set.breaker
  local took, ahead = is.took or UNKNOWN_MS, promised + waiting
  if is.pause then
    local why = 'paused by ' .. is.pause.by .. (is.pause.why ~= '' and ': ' .. is.pause.why or '')
    return why, is.pause.till > 0 and is.pause.till - now or 3600000
  end
  if is.breaker == 'open' then return 'its circuit breaker is open, ' .. is.why, is.till - now end
  if is.breaker == 'half_open' and is.ok + probing(g) + ahead >= breaker.max_requests then
    return 'its circuit breaker lets ' .. int(breaker.max_requests) .. ' calls through to try', took
  end
  local behind = ahead > 0 and ', ' .. int(ahead) .. ' are ahead' or ''
  local most = limit(g)
  if inside + ahead >= most then
    return int(inside) .. ' of ' .. int(most) .. ' run' .. behind, (inside + ahead + 1 - most) / most * took
  end
  local n = begun(g)
  if set.calls > 0 and n + ahead >= set.calls then
    local said = int(n) .. ' of ' .. int(set.calls) .. ' calls in ' .. set.window / 1000 .. ' s' .. behind
    return said, n > 0 and leaves(g, n + ahead - set.calls, n) or took
  end
  local wanted = is.units + units * (ahead + 1)
  if set.units > 0 and n + ahead > 0 and wanted > set.units then  -- one that wants more than there is goes alone
    local k = n > 0 and math.ceil((wanted - set.units) / math.max(is.units / n, 1)) - 1
    local said = int(is.units) .. ' of ' .. int(set.units) .. ' units in ' .. set.window / 1000 .. ' s, wants ' .. int(units)
    return said .. behind, k and leaves(g, k, n) or took
  end
  -- They were held up by something that is over, and are being called.
  if waiting > 0 then return int(waiting) .. ' wait before it', waiting * 50 end
end

-- The line. The record of a waiting task: {gates, at (the gate in whose line it waits), created, units, token (of the
-- start that was refused), till (until when places are promised)}

local function record(id)
  local text = redis.call('HGET', WAITING, id)
  return text and cjson.decode(text)
end

local function step_out(id, w)
  for _, name in ipairs(w.gates) do
    redis.call('ZREM', LINE, name .. '|0|' .. w.created .. '|' .. id, name .. '|1|' .. w.created .. '|' .. id)
  end
  if w.till then redis.call('ZREM', PROMISES, id) end
end

local function step_in(id, w, g)
  w.at, w.till = g.name, nil
  redis.call('ZADD', LINE, 0, g.name .. '|1|' .. w.created .. '|' .. id)
  redis.call('HSET', WAITING, id, cjson.encode(w))
  look_after(g, 500)
end

-- Whether what a record says of a task still holds: it has not ended, nor run again since.
local function waits(l, w)
  return l and not TERMINAL[l.state] and (l.state == 'queued' or int(l.token) == w.token)
end

local delayed = {}  -- queue -> its key
local hastened = false

local function queues(first, last)
  for a = first, last do delayed[ARGV[a]] = KEYS[13 + a - first] end
end

-- Places become promises: for the first in line at `g` that fit through all their gates, at most `most`.
local function serve(g, most)
  local first, last = of(g.name, '1')
  for _ = 1, most + 50 do  -- some in line have gone
    local member = most > 0 and redis.call('ZRANGEBYLEX', LINE, first, last, 'LIMIT', 0, 1)[1]
    if not member then return end
    local id = member:match('^[^|]*|1|%d+|(.*)$')
    local w, l = record(id), unpack_live(redis.call('HGET', LIVE, id))
    if not w or w.at ~= g.name or not waits(l, w) then
      redis.call('ZREM', LINE, member)
      if w and w.at == g.name then redis.call('HDEL', WAITING, id) end
    else
      local queue = delayed[l.queue]
      if not queue then return end  -- of a queue that this worker does not know yet; the loop's does
      local closed
      for _, name in ipairs(w.gates) do
        local h = gate(name)
        if refusal(h, tally(PLACES, name), tally(LINE, name, '0'), 0, w.units) then
          closed = h
          if h == g then return end
        end
      end
      redis.call('ZREM', LINE, member)
      if closed then
        step_in(id, w, closed)
      else
        for _, name in ipairs(w.gates) do redis.call('ZADD', LINE, 0, name .. '|0|' .. w.created .. '|' .. id) end
        w.till = now + RESERVED_MS
        redis.call('ZADD', PROMISES, int(w.till), id)
        redis.call('HSET', WAITING, id, cjson.encode(w))
        -- A start that was refused and is not settled yet finds the promise there (ack.lua).
        if l.state ~= 'running' and redis.call('ZADD', queue, 'XX', 'CH', int(now), id) == 1 then hastened = true end
        most = most - 1
      end
    end
  end
end

local function ring()
  if hastened then redis.call('XADD', BELL, 'MAXLEN', '1', '*', 'due', int(now)) end
end
