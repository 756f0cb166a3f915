-- Prepended to the scripts that grant or release permits: the state of limiters, and whether one has a permit free. Before
-- it stand the names of the keys, `now` and `liveness`: _limiter_keys.lua, _fetch.lua, ack.lua.
-- docs/limiters.md explains the words. All limiters share these keys, as a task that waits for one of them may need
-- others too, which only its record names. In the sorted sets PERMITS, QUEUE and ACQUIRED every score is 0 and the
-- members sort as text:
--   PERMITS   limiter|task|token|permit|acquired   the permits that are held
--   QUEUE     limiter|1|created|task               the tasks that wait for a permit, in the order of `rank`
--             limiter|2|queue|created|task         and those that stand aside, as their queue is full
--   ACQUIRED  limiter|acquired|task|permit|cost    the permits acquired within the limiter's window
-- and in CONFIGURED the scores are when a worker last said that it is configured so, in ms:
--   CONFIGURED  scope|fingerprint                  what the limiters of the scope are called with: a key, an address
local UNKNOWN_MS = 20000  -- how long a permit is held, while that is not known
local START = 10          -- an adaptive limit begins here
local CONFIGURED_MS = 8000  -- a worker that is silent for so long does not run with its configuration any more
local PERMIT = '^[^|]*|(.*)|(%d+)|(%x+)|(%d+)$'
local NO_LIMITS = '{"running":0,"adaptive":false,"calls":0,"units":0,"window":60000}'

local function pad(ms) return string.format('%013.0f', ms) end

-- The bounds of what begins with "limiter|..." in a sorted set (the character behind | is }).
local function range(...)
  local prefix = table.concat({ ... }, '|')
  return '[' .. prefix .. '|', '(' .. prefix .. '}'
end

local function count(key, ...)
  local from, to = range(...)
  return redis.call('ZLEXCOUNT', key, from, to)
end

-- A limiter's state, as JSON in LIMITERS (of `type:NAME` without its pause: _paused.lua); workers of several versions share it:
--   breaker closed|open|half_open, since `at`, open until `till` because of `why`; since `from` it saw `ok` successes
--   and `bad` failures; `probes`: the permits that may try it while it is half open
--   pause   {by, why, person, at, till: 0 is without an end}
--   refused configuration (scope|fingerprint) -> such a pause, of calls that are made with it alone
--   limit   the adaptive limit in force; `rising` until it was first cut, `cut` last at
--   units   the cost acquired within the window; took: how many ms a permit is held on average
--   pruned, cursor: when permits of dead workers were last looked for, and how far; idle: since when it is not used

local function set_breaker(limiter, breaker)
  local s = limiter.state
  s.breaker, s.at, s.from, s.ok, s.bad, s.probes = breaker, now, now, 0, 0, {}
  s.till = breaker == 'open' and now + limiter.settings.breaker.timeout or nil
  if breaker ~= 'half_open' then s.why = nil end
end

-- When the clock was set back: what began in the future began now, with its length.
local function begin_by_now(span)
  local ahead = (span.at or now) - now
  if ahead <= 0 then return end
  span.at = now
  if span.till and span.till > 0 then span.till = span.till - ahead end
end

-- Changes what time alone changes.
local function advance(limiter)
  local s, breaker = limiter.state, limiter.settings.breaker
  begin_by_now(s)
  if s.pause then begin_by_now(s.pause) end
  for _, pause in pairs(s.refused or {}) do begin_by_now(pause) end
  s.from, s.cut = math.min(s.from, now), s.cut and math.min(s.cut, now)
  if s.pause and s.pause.till > 0 and s.pause.till <= now then s.pause = nil end
  for configuration, pause in pairs(s.refused or {}) do
    if pause.till > 0 and pause.till <= now then s.refused[configuration] = nil end
  end
  if s.refused and not next(s.refused) then s.refused = nil end
  if not breaker then
    if s.breaker ~= 'closed' then set_breaker(limiter, 'closed') end
  elseif s.breaker == 'open' then
    if s.till <= now then set_breaker(limiter, 'half_open') end
  elseif s.breaker == 'closed' and s.from + breaker.interval <= now then
    s.from, s.ok, s.bad = now, 0, 0
  end
end

local loaded = {}

local function get(name)
  local limiter = loaded[name]
  if not limiter then
    local stored, settings = redis.call('HGET', LIMITERS, name), redis.call('HGET', SETTINGS, name)
    limiter = { name = name, stored = stored, stated = settings, settings = cjson.decode(settings or NO_LIMITS),
      state = stored and cjson.decode(stored)
        or { breaker = 'closed', at = now, from = now, ok = 0, bad = 0, units = 0, probes = {} } }
    loaded[name] = limiter
    limiter.type = name:match('^type:(.+)')
    if limiter.type then
      limiter.state.pause = type_pause(limiter.type)
      limiter.pause = limiter.state.pause and cjson.encode(limiter.state.pause)
    end
    advance(limiter)
  end
  return limiter
end

-- The loop looks at this limiter within so many ms; `save` tells it.
local function look_within(limiter, ms) limiter.within = math.min(limiter.within or ms, ms) end

-- The limits in force are those that were stated last, as JSON.
local function set_limits(limiter, settings)
  if settings == limiter.stated then return end
  redis.call('HSET', SETTINGS, limiter.name, settings)
  if limiter.stated then look_within(limiter, 0) end  -- tasks that wait may start now
  limiter.stated, limiter.settings = settings, cjson.decode(settings)
  advance(limiter)
end

local function save_type_pause(limiter)
  local pause = limiter.state.pause
  local text = pause and cjson.encode(pause)
  if text and text ~= limiter.pause then redis.call('HSET', PAUSED, limiter.type, text) end
  if limiter.pause and not text then redis.call('HDEL', PAUSED, limiter.type) end
  limiter.state.pause = nil
end

local function save()
  for name, limiter in pairs(loaded) do
    if limiter.type then save_type_pause(limiter) end
    if not limiter.stored then look_within(limiter, 60000) end
    if limiter.within then redis.call('ZADD', DUE, 'LT', int(now + limiter.within), name) end
    local text = cjson.encode(limiter.state)
    if text ~= limiter.stored then redis.call('HSET', LIMITERS, name, text) end
  end
end

-- How many permits are held.
local function held(limiter)
  limiter.held = limiter.held or count(PERMITS, limiter.name)
  return limiter.held
end

local function remove_permits(limiter, ...)
  local removed = redis.call('ZREM', PERMITS, ...)
  if limiter.held then limiter.held = limiter.held - removed end
  return removed
end

-- How many permits may be held at once.
local function concurrency(limiter)
  local s, most = limiter.state, limiter.settings.running
  if most == 0 then return math.huge end
  if not limiter.settings.adaptive then return most end
  if not s.limit then s.limit, s.rising = math.min(START, most), true end
  return math.max(1, math.min(math.floor(s.limit), most))
end

local configured

-- The pause that holds up calls made with `configuration`. Without one: the pause that holds up every worker's. A refused
-- configuration holds up nobody once a worker has another one for the same, or once no worker has it any more.
local function pause_of(limiter, configuration)
  local s = limiter.state
  if s.pause or not s.refused then return s.pause end
  if configuration then return s.refused[configuration] end
  configured = configured or redis.call('ZRANGEBYSCORE', CONFIGURED, int(now - CONFIGURED_MS), int(now))
  local has_refused = #configured == 0  -- where no worker says what it has, the pause is all that is known
  for _, other in ipairs(configured) do
    if s.refused[other] then
      has_refused = true
    else
      local scope = other:match('^.*|')
      for refused in pairs(s.refused) do
        if refused:sub(1, #scope) == scope then return end
      end
    end
  end
  if not has_refused then return end
  local latest
  for _, pause in pairs(s.refused) do
    if not latest or pause.at > latest.at then latest = pause end
  end
  return latest
end

local freshness = {}
local newest

-- Compares with the newest heartbeat rather than the clock: while Redis was away no worker could renew its own.
local function is_alive(consumer)
  if freshness[consumer] == nil then
    newest = newest or tonumber(redis.call('ZREVRANGE', WORKERS, 0, 0, 'WITHSCORES')[2] or 0)
    local seen = tonumber(redis.call('ZSCORE', WORKERS, consumer) or 0)
    freshness[consumer] = seen > 0 and seen >= newest - liveness
  end
  return freshness[consumer]
end

-- How many calls that try a half-open breaker are under way.
local function probing(limiter)
  local n = 0
  for permit in pairs(limiter.state.probes) do
    if redis.call('ZSCORE', PERMITS, permit) then n = n + 1 else limiter.state.probes[permit] = nil end
  end
  return n
end

-- How many permits were acquired within the window; `units` becomes the sum of their costs.
local function in_window(limiter)
  local s, settings = limiter.state, limiter.settings
  if settings.calls == 0 and settings.units == 0 then return 0 end
  local first = range(limiter.name)
  local edge = '(' .. limiter.name .. '|' .. pad(now - settings.window + 1)
  local old = redis.call('ZRANGEBYLEX', ACQUIRED, first, edge, 'LIMIT', 0, 500)
  for _, acquired in ipairs(old) do s.units = s.units - tonumber(acquired:match('^.*|(.*)$')) end
  if #old > 0 then redis.call('ZREM', ACQUIRED, unpack(old)) end
  -- Those of the future, as the clock was set back, count for a whole window from now on.
  local last = select(2, range(limiter.name))
  for _, acquired in ipairs(redis.call('ZRANGEBYLEX', ACQUIRED, '[' .. limiter.name .. '|' .. pad(now + 1), last, 'LIMIT', 0, 500)) do
    local at = now - 1  -- a task that ran again may have two of one name then, and a third from now
    while redis.call('ZADD', ACQUIRED, 0, (acquired:gsub('|%d+', '|' .. pad(at), 1))) == 0 do at = at - 1 end
    redis.call('ZREM', ACQUIRED, acquired)
  end
  local n = count(ACQUIRED, limiter.name)
  if n == 0 then s.units = 0 end
  return n
end

-- In how many ms the k-th (0, 1, ...) of the n permits in the window leaves it; later ones follow at the same pace.
local function leaves_window(limiter, k, n)
  local rounds = math.floor(k / n)
  local first = redis.call('ZLEXCOUNT', ACQUIRED, '-', '(' .. limiter.name .. '|')
  local acquired = redis.call('ZRANGE', ACQUIRED, first + k % n, first + k % n)[1]
  return tonumber(acquired:match('^[^|]*|(%d+)')) + limiter.settings.window * (1 + rounds) - now
end

-- Why the limiter grants no permit of this cost while so many others are held, and waited for by tasks that are ahead,
-- and in about how many ms it could; nil when it grants one.
local function refusal(limiter, others, ahead, cost, configuration)
  local s, settings, breaker = limiter.state, limiter.settings, limiter.settings.breaker
  local took = s.took or UNKNOWN_MS
  local pause = pause_of(limiter, configuration)
  if pause then
    local why = 'paused by ' .. pause.by .. (pause.why ~= '' and ': ' .. pause.why or '')
    return why, pause.till > 0 and pause.till - now or 3600000
  end
  if s.breaker == 'open' then return 'its circuit breaker is open, ' .. s.why, s.till - now end
  if s.breaker == 'half_open' and s.ok + probing(limiter) + ahead >= breaker.max_requests then
    return 'its circuit breaker is half-open and lets ' .. int(breaker.max_requests) .. ' calls through', took
  end
  local behind = ahead > 0 and ', ' .. int(ahead) .. ' ahead' or ''
  local most = concurrency(limiter)
  if others + ahead >= most then
    return int(others) .. ' of ' .. int(most) .. ' run' .. behind, (others + ahead + 1 - most) / most * took
  end
  local n, window = in_window(limiter), ' in ' .. settings.window / 1000 .. ' s'
  if settings.calls > 0 and n + ahead >= settings.calls then
    local why = int(n) .. ' of ' .. int(settings.calls) .. ' calls' .. window .. behind
    return why, n > 0 and leaves_window(limiter, n + ahead - settings.calls, n) or took
  end
  local wanted = s.units + cost * (ahead + 1)
  if settings.units > 0 and n + ahead > 0 and wanted > settings.units then  -- a cost above the limit is granted alone
    local k = n > 0 and math.ceil((wanted - settings.units) / math.max(s.units / n, 1)) - 1
    local why = 'cost ' .. int(s.units) .. ' of ' .. int(settings.units) .. window .. ', wants ' .. int(cost) .. behind
    return why, k and leaves_window(limiter, k, n) or took
  end
  -- What held the waiting tasks up is over; permits are about to be handed over to them.
  if ahead > 0 then return int(ahead) .. ' ahead', ahead * 50 end
end
