-- Prepended to the limiter scripts and parts behind _limiters.lua: whether a task may have a permit, and how it gets one.
-- `wanted` is {id, token, created, cost, permit}.

-- Where a task stands in the wait queues: as if it were older by a day for each step of its priority, so that what is urgent
-- goes first and nothing waits for ever.
local OLDER_MS = { urgent = 172800000, high = 86400000, low = -86400000 }
local function rank(created, priority) return pad(math.max(0, tonumber(created) - (OLDER_MS[priority] or 0))) end

-- The permits of a limiter that a task holds, of this attempt or others.
local function held_by(id, name)
  local permits = {}
  for _, permit in ipairs(redis.call('ZRANGEBYLEX', PERMITS, range(name, id))) do
    if permit:match(PERMIT) == id then permits[#permits + 1] = permit end
  end
  return permits
end

-- Whether one of these permits is the wanted one: then when it was acquired.
local function acquired_at(permits, wanted)
  for _, permit in ipairs(permits) do
    local _, token, known, at = permit:match(PERMIT)
    if token == wanted.token and known == wanted.permit then return tonumber(at) end
  end
end

-- Why the limiter refuses, as `refusal` in _limiters.lua: older tasks are ahead, and `own` permits do not stand in the way.
local function judge(limiter, wanted, own, configuration)
  local name = limiter.name
  local me = '(' .. name .. '|1|' .. wanted.created .. '|' .. wanted.id
  local ahead = redis.call('ZLEXCOUNT', QUEUE, range(name, '1'), me)
  return refusal(limiter, held(limiter) - #own, ahead, wanted.cost, configuration)
end

-- Enters the permit of a task in place of its `own`, which it has held since `at` ms.
local function enter(limiter, wanted, own, at)
  if #own > 0 then remove_permits(limiter, unpack(own)) end
  local permit = table.concat({ limiter.name, wanted.id, wanted.token, wanted.permit, int(at) }, '|')
  local added = redis.call('ZADD', PERMITS, 0, permit)
  if limiter.held then limiter.held = limiter.held + added end
  if limiter.state.breaker == 'half_open' then limiter.state.probes[permit] = 1 end
  limiter.state.idle = nil
  look_within(limiter, 2000)
end

-- Takes back what a permit counts for that no call was made with: a call within the window, and one that tries the breaker.
local function uncount(limiter, permit)
  local id, _, number, at = permit:match(PERMIT)
  limiter.state.probes[permit] = nil
  for _, acquired in ipairs(redis.call('ZRANGEBYLEX', ACQUIRED, range(limiter.name, pad(at), id, number))) do
    redis.call('ZREM', ACQUIRED, acquired)
    limiter.state.units = limiter.state.units - tonumber(acquired:match('^.*|(.*)$'))
  end
end

local function grant(limiter, wanted, own)
  local s = limiter.state
  enter(limiter, wanted, own, now)
  if limiter.settings.calls > 0 or limiter.settings.units > 0 then
    in_window(limiter)
    local acquired = table.concat({ limiter.name, pad(now), wanted.id, wanted.permit, int(wanted.cost) }, '|')
    redis.call('ZADD', ACQUIRED, 0, acquired)
    s.units = s.units + wanted.cost
  end
end
