-- Acquires permits, each from all its limiters at once or from none. Harmless twice.
-- KEYS as in _limiter_keys.lua
-- ARGV liveness_ms epoch force, then per permit: task token created cost permit in_place_ms unused
--      number_of_limiters, then per limiter: name settings
--      epoch: the Redis that the worker knows ('' none yet); force: permits that were held before Redis was emptied;
--      in_place_ms: a wait as short as that is worth asking again, and the attempt enters the wait queue meanwhile;
--      unused: 1 when this permit replaces what the task was fetched with
-- -> per permit {1, acquired_ms} | {0, in about how many ms, limiter, why, whether it is paused or its breaker not closed,
--      1 when the attempt is in the wait queue}
--    | {3} another attempt has the task by now;  nothing at all when Redis is another than the worker knows
if ARGV[3] == '0' and ARGV[2] ~= '' and (redis.call('GET', EPOCH) or '') ~= ARGV[2] then return {} end
local force = ARGV[3] == '1'

local function acquire(wanted, first, last)
  local l = unpack_live(redis.call('HGET', LIVE, wanted.id))
  if l and (l.state ~= 'running' or int(l.token) ~= wanted.token) then return { 3 } end
  wanted.created = rank(wanted.created, l and l.priority)
  local w = record(wanted.id)
  local names, own = {}, {}
  local refused, wait, why
  for a = first, last, 2 do
    local name, limiter = ARGV[a], get(ARGV[a])
    names[#names + 1] = name
    set_limits(limiter, ARGV[a + 1])
    own[name] = held_by(wanted.id, name)
    local at = acquired_at(own[name], wanted)
    if at then return { 1, at } end
    if not force then
      if wanted.unused then
        for _, permit in ipairs(own[name]) do
          local _, token, number = permit:match(PERMIT)
          if token == wanted.token and number == '0' then uncount(limiter, permit) end
        end
      end
      local reason, ms = judge(limiter, wanted, own[name], limiter.settings.configuration)
      if reason and prune(limiter) then
        own[name] = held_by(wanted.id, name)
        reason, ms = judge(limiter, wanted, own[name], limiter.settings.configuration)
      end
      if reason and (not refused or ms > wait) then refused, why, wait = limiter, reason, ms end
    end
  end

  if w then forget_wait(wanted.id, w) end
  if refused then
    local unavailable = pause_of(refused, refused.settings.configuration) or refused.state.breaker ~= 'closed'
    local stays = wait < wanted.in_place and not unavailable
    if stays then
      local new = { gates = names, created = wanted.created, units = wanted.cost, token = wanted.token, permit = wanted.permit }
      enqueue(wanted.id, new, refused)
    end
    return { 0, wait, refused.name, why, unavailable and 1 or 0, stays and 1 or 0 }
  end
  for _, name in ipairs(names) do grant(get(name), wanted, own[name]) end
  return { 1, now }
end

local answers, a = {}, 4
while a < #ARGV do
  local last = a + 7 + 2 * tonumber(ARGV[a + 7])
  local wanted = { id = ARGV[a], token = ARGV[a + 1], created = ARGV[a + 2], cost = tonumber(ARGV[a + 3]), permit = ARGV[a + 4],
    in_place = tonumber(ARGV[a + 5]), unused = ARGV[a + 6] == '1' }
  answers[#answers + 1] = acquire(wanted, a + 8, last)
  a = last + 1
end
save()
return answers
