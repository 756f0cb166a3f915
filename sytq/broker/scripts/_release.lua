-- Prepended to ack.lua and limiter_release.lua, behind _wait_queue.lua: releases permits and counts their
-- outcomes: `r` is {id, token, permit, at, outcome, reserved, cost}. The outcome `unused`: no call was made, so none counts
-- within the window.

local function adapt(limiter, r)
  local s, most = limiter.state, concurrency(limiter)
  if r.outcome == 'ok' then
    -- A limit that the load does not come near proves nothing.
    if 2 * (held(limiter) + 1) >= most then
      s.limit = math.min(s.limit + (s.rising and 1 or 1 / s.limit), limiter.settings.running)
    end
  elseif r.outcome == 'overloaded' and r.at > (s.cut or 0) then  -- calls that were under way together count once
    s.limit, s.rising, s.cut = math.max(1, s.limit / 2), false, now
  end
end

-- Counts an outcome for the breaker. Permits acquired before the breaker last changed say nothing about now.
local function count_outcome(limiter, permit, r)
  local s, breaker = limiter.state, limiter.settings.breaker
  if not breaker or s.breaker == 'open' or r.at < s.at then return end
  local probe = s.probes[permit]
  s.probes[permit] = nil
  if r.outcome == 'ignored' or r.outcome == 'unused' or (s.breaker == 'half_open' and not probe) then return end
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
  if remove_permits(limiter, permit) == 0 then return end
  local acquired = name .. '|' .. pad(r.at) .. '|' .. r.id .. '|' .. r.permit .. '|'
  if r.outcome == 'unused' then
    uncount(limiter, permit)
  elseif r.cost ~= r.reserved and redis.call('ZREM', ACQUIRED, acquired .. int(r.reserved)) == 1 then
    redis.call('ZADD', ACQUIRED, 0, acquired .. int(r.cost))
    s.units = s.units + r.cost - r.reserved
  end
  if r.outcome ~= 'ignored' and r.outcome ~= 'unused' then
    local took = math.max(now - r.at, 0)
    s.took = s.took and math.floor(s.took * 0.9 + took * 0.1) or took
    if limiter.settings.adaptive and limiter.settings.running > 0 then adapt(limiter, r) end
  end
  count_outcome(limiter, permit, r)
end

local changed, freed = {}, {}  -- {limiter, state} whose breaker changed; limiter -> number of its permits

local function release_of(limiter, r)
  local before = limiter.state.breaker
  release(limiter, r)
  if limiter.state.breaker ~= before then changed[#changed + 1] = { limiter.name, limiter.state.breaker } end
  freed[limiter] = (freed[limiter] or 0) + 1
end

-- Hands the released permits over to the next tasks.
local function hand_over()
  for limiter, permits in pairs(freed) do
    local more, gradually = serve(limiter, 2 * permits)
    if more and not gradually then look_within(limiter, 0) end
  end
  save()
  return changed
end
