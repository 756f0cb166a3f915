-- A passage has ended: its places are free, what it learned is counted, and who waited for them is called. Harmless twice.
-- KEYS as in _gates.lua, then the delayed sets of these queues
-- ARGV liveness_ms id token passage begun_ms outcome reserved units number_of_gates, gates..., queues...
--      reserved: the units that enter reserved; units: the real ones
-- -> {gate, state}... whose breaker changed
local id, token, passage, at, outcome = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local reserved, units, last = tonumber(ARGV[7]), tonumber(ARGV[8]), 9 + tonumber(ARGV[9])
queues(last + 1)

local function adapt(g)
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

local changed = {}
for a = 10, last do
  local g = gate(ARGV[a])
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
      if g.set.adaptive and g.set.running > 0 then adapt(g) end
    end
    judge(g, place, at, outcome)
  end
  if g.is.breaker ~= before then changed[#changed + 1] = { g.name, g.is.breaker } end
end
for a = 10, last do serve(gate(ARGV[a]), 2) end
save()
ring()
return changed
