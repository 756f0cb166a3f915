-- Passages have ended: their places are free, what they learned is counted, and who waited for them is called. Harmless
-- twice.
-- KEYS as in _limiters.lua, then the delayed sets of these queues
-- ARGV liveness_ms number_of_queues, queues..., then per passage: id token passage begun_ms outcome reserved units
--      number_of_gates, gates...
--      reserved: the units that enter reserved; units: the real ones
-- -> {gate, state}... whose breaker changed
local first = 3 + tonumber(ARGV[2])
queues(3, first - 1)

local function adapt(g, at, outcome)
  local is, most = g.is, limit(g)
  if outcome == 'ok' then
    -- A limit that nobody comes near proves nothing.
    if 2 * (tally(PLACES, g.name) + 1) >= most then
      is.limit = math.min(is.limit + (is.rising and 1 or 1 / is.limit), g.set.running)
    end
  elseif outcome == 'overloaded' and at > (is.cut or 0) then  -- the calls that were under way with it say the same
    is.limit, is.rising, is.cut = math.max(1, is.limit / 2), false, now
  end
end

local changed, left = {}, {}

local function leave(g, id, token, passage, at, outcome, reserved, units)
  local before = g.is.breaker
  local place = table.concat({ g.name, id, token, passage, int(at) }, '|')
  if redis.call('ZREM', PLACES, place) == 1 then
    local call = g.name .. '|' .. pad(at) .. '|' .. id .. '|' .. passage .. '|'
    if units ~= reserved and redis.call('ZREM', CALLS, call .. int(reserved)) == 1 then
      redis.call('ZADD', CALLS, 0, call .. int(units))
      g.is.units = g.is.units + units - reserved
    end
    if outcome ~= 'ignored' then
      local took = now - at
      g.is.took = g.is.took and math.floor(g.is.took * 0.9 + took * 0.1) or took
      if g.set.adaptive and g.set.running > 0 then adapt(g, at, outcome) end
    end
    judge(g, place, at, outcome)
  end
  if g.is.breaker ~= before then changed[#changed + 1] = { g.name, g.is.breaker } end
end

local a = first
while a < #ARGV do
  local last = a + 7 + tonumber(ARGV[a + 7])
  for k = a + 8, last do
    local g = gate(ARGV[k])
    local reserved, units = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
    leave(g, ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3]), ARGV[a + 4], reserved, units)
    left[g] = (left[g] or 0) + 1
  end
  a = last + 1
end
for g, places in pairs(left) do serve(g, 2 * places) end
save()
ring()
return changed
