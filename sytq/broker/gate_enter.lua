-- A task wants through all these gates at once. Harmless twice: a passage that is inside is inside.
-- KEYS as in _gates.lua   ARGV liveness_ms epoch force id token created units passage, then per gate: name settings
--      epoch: the Redis that the worker knows ('' none yet); force: a passage that was inside before Redis was emptied
-- -> {1, begun_ms} | {0, in about how many ms, gate, why, whether it is closed to all}
--    | {2} Redis is another than the worker knows | {3} another start has the task by now
if ARGV[3] == '0' and ARGV[2] ~= '' and (redis.call('GET', EPOCH) or '') ~= ARGV[2] then return { 2 } end
local force, id, token, created, units, passage = ARGV[3] == '1', ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local l = unpack_live(redis.call('HGET', LIVE, id))
if l and (l.state ~= 'running' or int(l.token) ~= token) then return { 3 } end
local names = {}
local w = record(id)
local promised = w and w.till and w.till >= now
local refused, wait, why

-- The places that this task has at a gate, of this start or others.
local function own(name)
  local places = {}
  for _, place in ipairs(redis.call('ZRANGEBYLEX', PLACES, of(name, id))) do
    if place:match(PLACE) == id then places[#places + 1] = place end
  end
  return places
end

for a = 9, #ARGV, 2 do
  local g = gate(ARGV[a])
  names[#names + 1] = g.name
  state(g, ARGV[a + 1])
  for _, place in ipairs(own(g.name)) do
    local _, start, known, begun = place:match(PLACE)
    if start == token and known == passage then return { 1, tonumber(begun) } end
  end
  if not force then
    -- Older tasks are ahead; but who was promised its own place passes those that only wait.
    local mine = created .. '|' .. id
    local before = redis.call('ZLEXCOUNT', LINE, of(g.name, '0'), '(' .. g.name .. '|0|' .. mine)
    local waiting = promised and 0 or redis.call('ZLEXCOUNT', LINE, of(g.name, '1'), '(' .. g.name .. '|1|' .. mine)
    local function judged() return refusal(g, tally(PLACES, g.name) - #own(g.name), before, waiting, units) end
    local said, ms = judged()
    if said then
      prune(g)
      said, ms = judged()
    end
    if said and (not refused or ms > wait) then refused, why, wait = g, said, ms end
  end
end

if w then
  step_out(id, w)
  redis.call('HDEL', WAITING, id)
end

if refused then
  if tally(LINE, refused.name, '1') < MOST_WAITING then
    step_in(id, { gates = names, created = created, units = units, token = token }, refused)
  end
  save()
  local closed = refused.is.pause or refused.is.breaker ~= 'closed'
  return { 0, wait, refused.name, why, closed and 1 or 0 }
end

for _, name in ipairs(names) do
  local g = gate(name)
  local taken = own(name)
  if #taken > 0 then redis.call('ZREM', PLACES, unpack(taken)) end
  local place = table.concat({ name, id, token, passage, int(now) }, '|')
  redis.call('ZADD', PLACES, 0, place)
  if g.is.breaker == 'half_open' then g.is.probes[place] = 1 end
  if g.set.calls > 0 or g.set.units > 0 then
    begun(g)
    redis.call('ZADD', CALLS, 0, name .. '|' .. pad(now) .. '|' .. id .. '|' .. passage .. '|' .. int(units))
    g.is.units = g.is.units + units
  end
  g.is.idle = nil
  look_after(g, 2000)
end
save()
return { 1, now }
