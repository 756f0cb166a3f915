-- Releases permits: counts their outcomes, and reserves permits for waiting tasks. Harmless twice.
-- KEYS as in _limiters.lua, then the delayed sets of these queues
-- ARGV liveness_ms number_of_queues, queues..., then per permit: task token permit acquired_ms outcome reserved cost
--      number_of_limiters, limiters...
--      reserved: the cost that was acquired; cost: the real one
-- -> {limiter, state}... whose breaker changed
local first = 3 + tonumber(ARGV[2])
queues(3, first - 1)

local function adapt(limiter, r)
  local s, most = limiter.state, concurrency(limiter)
  if r.outcome == 'ok' then
    -- A limit that the load does not come near proves nothing.
    if 2 * (count(PERMITS, limiter.name) + 1) >= most then
      s.limit = math.min(s.limit + (s.rising and 1 or 1 / s.limit), limiter.settings.running)
    end
  elseif r.outcome == 'overloaded' and r.at > (s.cut or 0) then  -- calls that were under way together count once
    s.limit, s.rising, s.cut = math.max(1, s.limit / 2), false, now
  end
end

-- Counts an outcome for the breaker. Permits acquired before the breaker last changed say nothing about now.
local function judge(limiter, permit, r)
  local s, breaker = limiter.state, limiter.settings.breaker
  if not breaker or s.breaker == 'open' or r.at < s.at then return end
  local probe = s.probes[permit]
  s.probes[permit] = nil
  if r.outcome == 'ignored' or (s.breaker == 'half_open' and not probe) then return end
  if r.outcome == 'ok' then s.ok = s.ok + 1 else s.bad = s.bad + 1 end
  local all = s.ok + s.bad
  if s.breaker == 'half_open' then
    if s.bad > 0 then
      set_breaker(limiter, 'open')
      s.why = 'a call that tried it failed'
    elseif s.ok >= breaker.max_requests then
      set_breaker(limiter, 'closed')
    end
  elseif all >= breaker.min_calls and s.bad / all >= breaker.fail_threshold then
    local why = int(s.bad) .. ' of ' .. int(all) .. ' calls failed'
    set_breaker(limiter, 'open')
    s.why = why
  end
end

local function release(limiter, r)
  local s, name = limiter.state, limiter.name
  local permit = table.concat({ name, r.id, r.token, r.permit, int(r.at) }, '|')
  if redis.call('ZREM', PERMITS, permit) == 0 then return end
  local acquired = name .. '|' .. pad(r.at) .. '|' .. r.id .. '|' .. r.permit .. '|'
  if r.cost ~= r.reserved and redis.call('ZREM', ACQUIRED, acquired .. int(r.reserved)) == 1 then
    redis.call('ZADD', ACQUIRED, 0, acquired .. int(r.cost))
    s.units = s.units + r.cost - r.reserved
  end
  if r.outcome ~= 'ignored' then
    local took = now - r.at
    s.took = s.took and math.floor(s.took * 0.9 + took * 0.1) or took
    if limiter.settings.adaptive and limiter.settings.running > 0 then adapt(limiter, r) end
  end
  judge(limiter, permit, r)
end

local changed, released = {}, {}
local a = first
while a < #ARGV do
  local last = a + 7 + tonumber(ARGV[a + 7])
  local r = { id = ARGV[a], token = ARGV[a + 1], permit = ARGV[a + 2], at = tonumber(ARGV[a + 3]), outcome = ARGV[a + 4],
    reserved = tonumber(ARGV[a + 5]), cost = tonumber(ARGV[a + 6]) }
  for k = a + 8, last do
    local limiter = get(ARGV[k])
    local before = limiter.state.breaker
    release(limiter, r)
    if limiter.state.breaker ~= before then changed[#changed + 1] = { limiter.name, limiter.state.breaker } end
    released[limiter] = (released[limiter] or 0) + 1
  end
  a = last + 1
end
for limiter, permits in pairs(released) do serve(limiter, 2 * permits) end
save()
notify()
return changed
