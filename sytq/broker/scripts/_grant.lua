-- Prepended to fetch.lua and limiter_acquire.lua, behind _wait_queue.lua: whether a task may have a permit, and how it gets
-- one. `wanted` is {id, token, created, cost, permit}.

-- The permits of a limiter that a task holds, of this attempt or others.
local function held_by(id, name)
  local permits = {}
  for _, permit in ipairs(redis.call('ZRANGEBYLEX', PERMITS, range(name, id))) do
    if permit:match(PERMIT) == id then permits[#permits + 1] = permit end
  end
  return permits
end

-- Why the limiter refuses, as `refusal` in _limiters.lua; `own` permits of the task do not stand in its way.
local function judge(limiter, wanted, own, reserved, configuration)
  -- Older tasks are ahead; a task with a reservation passes those that only wait.
  local name, me = limiter.name, wanted.created .. '|' .. wanted.id
  local before = redis.call('ZLEXCOUNT', QUEUE, range(name, '0'), '(' .. name .. '|0|' .. me)
  local waiting = reserved and 0 or redis.call('ZLEXCOUNT', QUEUE, range(name, '1'), '(' .. name .. '|1|' .. me)
  local held = count(PERMITS, name) - #own
  return refusal(limiter, held, before, waiting, wanted.cost, configuration)
end

local function grant(limiter, wanted, own)
  local name, s = limiter.name, limiter.state
  if #own > 0 then redis.call('ZREM', PERMITS, unpack(own)) end
  local permit = table.concat({ name, wanted.id, wanted.token, wanted.permit, int(now) }, '|')
  redis.call('ZADD', PERMITS, 0, permit)
  if s.breaker == 'half_open' then s.probes[permit] = 1 end
  if limiter.settings.calls > 0 or limiter.settings.units > 0 then
    in_window(limiter)
    local acquired = table.concat({ name, pad(now), wanted.id, wanted.permit, int(wanted.cost) }, '|')
    redis.call('ZADD', ACQUIRED, 0, acquired)
    s.units = s.units + wanted.cost
  end
  s.idle = nil
  look_within(limiter, 2000)
end

