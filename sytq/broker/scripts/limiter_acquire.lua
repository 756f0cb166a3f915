-- Tasks want through, each through all of its gates at once. Harmless twice: a passage that is inside is inside.
-- KEYS as in _limiters.lua
-- ARGV liveness_ms epoch force, then per passage: id token created units passage number_of_gates, then per gate: name settings
--      epoch: the Redis that the worker knows ('' none yet); force: passages that were inside before Redis was emptied
-- -> per passage {1, begun_ms} | {0, in about how many ms, gate, why, whether it is closed to all}
--    | {3} another start has the task by now;  nothing at all when Redis is another than the worker knows
if ARGV[3] == '0' and ARGV[2] ~= '' and (redis.call('GET', EPOCH) or '') ~= ARGV[2] then return {} end
local force = ARGV[3] == '1'

-- The places that a task has at a gate, of this start or others.
local function own(name, id)
  local places = {}
  for _, place in ipairs(redis.call('ZRANGEBYLEX', PLACES, of(name, id))) do
    if place:match(PLACE) == id then places[#places + 1] = place end
  end
  return places
end

local function enter(id, token, created, units, passage, first, last)
  local l = unpack_live(redis.call('HGET', LIVE, id))
  if l and (l.state ~= 'running' or int(l.token) ~= token) then return { 3 } end
  local names, taken = {}, {}
  local w = record(id)
  local promised = w and w.till and w.till >= now
  local refused, wait, why
  for a = first, last, 2 do
    local g = gate(ARGV[a])
    names[#names + 1] = g.name
    state(g, ARGV[a + 1])
    local mine = own(g.name, id)
    taken[g.name] = mine
    for _, place in ipairs(mine) do
      local _, start, known, begun = place:match(PLACE)
      if start == token and known == passage then return { 1, tonumber(begun) } end
    end
    if not force then
      -- Older tasks are ahead; but who was promised its own place passes those that only wait.
      local me = created .. '|' .. id
      local before = redis.call('ZLEXCOUNT', LINE, of(g.name, '0'), '(' .. g.name .. '|0|' .. me)
      local waiting = promised and 0 or redis.call('ZLEXCOUNT', LINE, of(g.name, '1'), '(' .. g.name .. '|1|' .. me)
      local function judged() return refusal(g, tally(PLACES, g.name) - #mine, before, waiting, units) end
      local said, ms = judged()
      if said and prune(g) then
        mine = own(g.name, id)
        taken[g.name] = mine
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
    local closed = refused.is.pause or refused.is.breaker ~= 'closed'
    return { 0, wait, refused.name, why, closed and 1 or 0 }
  end

  for _, name in ipairs(names) do
    local g = gate(name)
    if #taken[name] > 0 then redis.call('ZREM', PLACES, unpack(taken[name])) end
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
  return { 1, now }
end

local answers, a = {}, 4
while a < #ARGV do
  local last = a + 5 + 2 * tonumber(ARGV[a + 5])
  answers[#answers + 1] = enter(ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3]), ARGV[a + 4], a + 6, last)
  a = last + 1
end
save()
return answers
