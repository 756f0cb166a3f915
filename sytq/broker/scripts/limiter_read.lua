-- Reads only. KEYS as in _limiter_keys.lua
-- ARGV liveness_ms cursor most limiters...   (limiters: these alone, with the tasks that hold a permit or wait for one)
-- -> {cursor of the rest ("0" at the end), {name, JSON}...}
local named = #ARGV > 3
local cursor, names = '0', {}
if named then
  for a = 4, #ARGV do
    if redis.call('HEXISTS', LIMITERS, ARGV[a]) == 1 then names[#names + 1] = ARGV[a] end
  end
else
  local reply = redis.call('HSCAN', LIMITERS, ARGV[2], 'COUNT', tonumber(ARGV[3]))
  cursor = reply[1]
  for i = 1, #reply[2], 2 do names[#names + 1] = reply[2][i] end
end

local function ids(key, form, name)
  local from, to = range(name)
  local found = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', key, from, to, 'LIMIT', 0, 20)) do found[#found + 1] = (member:match(form)) end
  return found
end

local out = { cursor }
for _, name in ipairs(names) do
  local limiter = get(name)
  local s, settings, pause = limiter.state, limiter.settings, pause_of(limiter)
  local seen = {
    state = pause and 'paused' or s.breaker, running = held(limiter), limit = settings.running,
    limit_now = settings.running == 0 and 0 or concurrency(limiter), waiting = count(QUEUE, name), failures = s.bad,
    since = (pause or s).at, reason = pause and pause.why or s.why,
    by = pause and pause.by or nil, ['until'] = pause and pause.till or s.till, took = s.took,
    calls = 0, max_calls = settings.calls, cost = 0, max_cost = settings.units, window = settings.window,
  }
  if settings.calls > 0 or settings.units > 0 then
    local edge = '[' .. name .. '|' .. pad(now - settings.window + 1)
    seen.calls = redis.call('ZLEXCOUNT', ACQUIRED, edge, '(' .. name .. '}')
    seen.cost = seen.calls > 0 and s.units or 0
  end
  if named then
    seen.holders = ids(PERMITS, PERMIT, name)
    seen.queue = ids(QUEUE, '([^|]*)$', name)
  end
  out[#out + 1] = { name, cjson.encode(seen) }
end
return out
