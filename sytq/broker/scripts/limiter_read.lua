-- Reads only. KEYS as in _limiters.lua   ARGV liveness_ms cursor most gates...   (gates: these alone, with who is inside and in line)
-- -> {cursor of the rest ("0" at the end), {name, JSON}...}
local named = #ARGV > 3
local cursor, names = '0', {}
if named then
  for a = 4, #ARGV do
    if redis.call('HEXISTS', GATES, ARGV[a]) == 1 then names[#names + 1] = ARGV[a] end
  end
else
  local reply = redis.call('HSCAN', GATES, ARGV[2], 'COUNT', tonumber(ARGV[3]))
  cursor = reply[1]
  for i = 1, #reply[2], 2 do names[#names + 1] = reply[2][i] end
end

local function ids(key, form, ...)
  local from, to = of(...)
  local found = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', key, from, to, 'LIMIT', 0, 20)) do found[#found + 1] = (member:match(form)) end
  return found
end

local out = { cursor }
for _, name in ipairs(names) do
  local g = gate(name)
  local is, set = g.is, g.set
  local edge = '[' .. name .. '|' .. pad(now - set.window + 1)
  local seen = {
    state = is.pause and 'paused' or is.breaker, running = tally(PLACES, name), limit = set.running,
    limit_now = set.running == 0 and 0 or limit(g), waiting = tally(LINE, name), failures = is.bad, calls = 0, units = 0,
    since = is.pause and is.pause.at or is.at, why = is.pause and is.pause.why or is.why,
    by = is.pause and is.pause.by or nil, till = is.pause and is.pause.till or is.till,
    most_calls = set.calls, most_units = set.units, window = set.window, took = is.took,
  }
  if set.calls > 0 or set.units > 0 then
    seen.calls = redis.call('ZLEXCOUNT', CALLS, edge, '(' .. name .. '}')
    seen.units = seen.calls > 0 and is.units or 0
  end
  if named then
    seen.inside = ids(PLACES, PLACE, name)
    seen.line = ids(LINE, '^[^|]*|%d|%d+|(.*)$', name)
  end
  out[#out + 1] = { name, cjson.encode(seen) }
end
return out
