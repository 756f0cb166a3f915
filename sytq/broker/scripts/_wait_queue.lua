-- Prepended to the limiter scripts and parts that change wait queues, behind _grant.lua. The record of a waiting task, as
-- JSON in WAITING: {gates (its limiters), at (the one in whose queue it waits), created, units (its cost), token (of its
-- latest attempt), permit (the id of an attempt's permit, when that attempt waits in place), granted (all limiters have
-- handed their permits over to it), fetch (whether a fetch refused it, of which no attempt tells), aside (its queue, while it
-- stands aside)}

local function record(id)
  local text = redis.call('HGET', WAITING, id)
  return text and cjson.decode(text)
end

local function place(id, w) return w.at .. (w.aside and '|2|' .. w.aside or '|1') .. '|' .. w.created .. '|' .. id end

local function forget_wait(id, w)
  redis.call('ZREM', QUEUE, place(id, w))
  -- Until 0.3: a worker of 0.1 reserved permits for the task, and counts such a member until it is removed.
  for _, name in ipairs(w.till and w.gates or {}) do redis.call('ZREM', QUEUE, name .. '|0|' .. w.created .. '|' .. id) end
  redis.call('HDEL', WAITING, id)
end

local function enqueue(id, w, limiter)
  w.at, w.aside, w.till = limiter.name, nil, nil  -- till: of workers of 0.1
  redis.call('ZADD', QUEUE, 0, place(id, w))
  redis.call('HSET', WAITING, id, cjson.encode(w))
  look_within(limiter, 500)
end

-- Whether a record still holds: since it was written the task has not ended, started, or left for another place.
local function waits(l, w)
  if not l or int(l.token) ~= w.token then return false end
  if w.permit then return l.state == 'running' end
  return l.state == 'retrying' or (l.state == 'queued' and l.entry ~= '')
end

-- Whether a permit is still its task's: it runs in a living worker, or the permit was handed over to it not long ago and no
-- worker has fetched it yet.
local function is_held(l, token, at)
  if not l or int(l.token) ~= token then return false end
  if l.state == 'running' then return is_alive(l.consumer) end
  -- One of the future, as the clock was set back, may be as old as any.
  return l.state == 'queued' and l.consumer == GRANTED and at > now - liveness and at <= now
end

-- Frees the permits of attempts that are over: the task ended, runs elsewhere by now, or its worker is silent. Returns
-- whether it looked: not twice within 200 ms.
local function prune(limiter)
  local s = limiter.state
  if s.pruned and now >= s.pruned and now - s.pruned < 200 then return false end
  s.pruned = now
  local first, last = range(limiter.name)
  local found = redis.call('ZRANGEBYLEX', PERMITS, s.cursor or first, last, 'LIMIT', 0, 100)
  s.cursor = #found == 100 and '(' .. found[100] or nil
  for _, permit in ipairs(found) do
    local id, token, _, at = permit:match(PERMIT)
    local l = unpack_live(redis.call('HGET', LIVE, id))
    if not is_held(l, token, tonumber(at)) then
      redis.call('ZREM', PERMITS, permit)
      local w = record(id)
      if w and w.granted and w.token == token then uncount(limiter, permit) end  -- no attempt has had it
      if not l or (l.state ~= 'retrying' and l.state ~= 'queued') then redis.call('HDEL', WAITING, id) end
    end
  end
  return true
end

-- Which limiter refuses a waiting task: `first` when that one does, else the last of the others, nil when none does.
local function refusing(w, first)
  local found
  for _, name in ipairs(w.gates) do
    if refusal(get(name), count(PERMITS, name), 0, w.units) then
      found = get(name)
      if found == first then break end
    end
  end
  return found
end

local STREAM = { urgent = 4, high = 5, normal = 6, low = 7 }
local known_queues = {}  -- by name

-- ARGV from `a` on: number of queues, then of each: name limit rate window_ms. KEYS from `key` on, of each: delayed bodies called
-- rate urgent high normal low suspects. Returns the number of the argument behind.
local function queues(workers, a, key)
  for n = 1, tonumber(ARGV[a]) do
    local b = a + 4 * n - 3
    local queue = { name = ARGV[b], key = key + 9 * (n - 1), group = workers, limit = tonumber(ARGV[b + 1]),
      rate = tonumber(ARGV[b + 2]), window = tonumber(ARGV[b + 3]) }
    known_queues[queue.name] = queue
  end
  return a + 4 * tonumber(ARGV[a]) + 1
end

-- How many more tasks of a queue may begin, beside those that were handed their permits and are not fetched yet.
local function room_in(queue)
  if not queue.room then
    local room = room_of(queue.group, queue.key + 4, KEYS[queue.key + 3], queue.limit, queue.rate, now, queue.window)
    local taken = redis.call('LLEN', KEYS[queue.key + 2]) + redis.call('EXISTS', KEYS[queue.key + 8])  -- as in fetch.lua
    queue.room = room < math.huge and room - taken or room
  end
  return queue.room
end

-- A waiting task is queued from now on, for `consumer` in the state index.
local function enter_stream(id, l, consumer)
  local k = known_queues[l.queue].key
  local is_delayed = l.state == 'retrying'
  if is_delayed then
    local message = redis.call('HGET', KEYS[k + 1], id)
    l.entry = redis.call('XADD', KEYS[k + (STREAM[l.priority] or STREAM.normal)], '*', 'id', id, 'message', message)
  end
  l.state, l.consumer = 'queued', consumer
  redis.call('HSET', LIVE, id, pack_live(l))
  if is_delayed then
    redis.call('HDEL', KEYS[k + 1], id)
    redis.call('ZREM', KEYS[k], id)
  end
end

-- Hands over the permits of all its limiters to a waiting task: it holds them and is queued, to be fetched before others.
-- An attempt that waits in place finds them when it asks again. It leaves the wait queue last, so that it is handed them once
-- more when Redis refused a call halfway.
local function hand_to(id, w, l)
  local wanted = { id = id, token = int(l.token), created = w.created, cost = w.units, permit = w.permit or '0' }
  local all_known = true
  for _, name in ipairs(w.gates) do all_known = all_known and get(name).stated end
  for _, name in ipairs(w.gates) do
    -- As in _admit.lua: where the limits of one are unknown, as it was not used for long, the attempt acquires its permits itself.
    if all_known or name:sub(1, 5) == 'type:' then grant(get(name), wanted, held_by(id, name)) end
  end
  if l.state == 'running' then return forget_wait(id, w) end
  local queue = known_queues[l.queue]
  queue.room = room_in(queue) - 1
  enter_stream(id, l, GRANTED)
  w.granted = true
  redis.call('HSET', WAITING, id, cjson.encode(w))
  redis.call('ZREM', QUEUE, place(id, w))
  redis.call('RPUSH', KEYS[queue.key + 2], id)
  redis.call('LTRIM', KEYS[queue.key + 2], -1000, -1)
end

-- A task waits for the resumption of its type, too, when that was paused meanwhile.
local function add_paused_type(w, l)
  local name = 'type:' .. l.type
  if l.state == 'running' or not is_paused(l.type) then return end
  for _, known in ipairs(w.gates) do if known == name then return end end
  if not get(name).stated then set_limits(get(name), NO_LIMITS) end
  w.gates[#w.gates + 1] = name
end

local function has_limits(w)
  for _, name in ipairs(w.gates) do
    local settings = get(name).settings
    if settings.running > 0 or settings.calls > 0 or settings.units > 0 or settings.breaker then return true end
  end
end

-- A task whose queue is full stands aside, so that no permit idles for it: until its queue has room it is behind the others of
-- the wait queue, and it stays in the order of its age.
local function stand_aside(id, w, l)
  local before = place(id, w)
  w.aside = l.queue
  redis.call('ZADD', QUEUE, 0, place(id, w))
  redis.call('HSET', WAITING, id, cjson.encode(w))
  redis.call('ZREM', QUEUE, before)
end

-- The queues of which tasks stand aside at the limiter.
local function queues_aside(limiter)
  local found = {}
  local from, to = range(limiter.name, '2')
  while true do
    local member = redis.call('ZRANGEBYLEX', QUEUE, from, to, 'LIMIT', 0, 1)[1]
    if not member then return found end
    local name = member:match('^[^|]*|2|([^|]*)|')
    found[#found + 1] = known_queues[name]
    from = '(' .. limiter.name .. '|2|' .. name .. '}'
  end
end

-- The place of the oldest waiting task: `limiter|1|...`, or one that stands aside and whose queue has room now.
local function first_place(limiter, aside)
  local oldest, created
  local function compare(from, to)
    local member = redis.call('ZRANGEBYLEX', QUEUE, from, to, 'LIMIT', 0, 1)[1]
    local its = member and member:match('|(%d+)|[^|]*$')
    if member and (not oldest or its < created) then oldest, created = member, its end
  end
  compare(range(limiter.name, '1'))
  for _, queue in ipairs(aside) do
    if room_in(queue) > 0 then compare(range(limiter.name, '2', queue.name)) end
  end
  return oldest
end

-- Hands permits over to the first tasks in the limiter's queue that all their limiters grant one, at most `most`. Returns
-- whether others may follow, and whether it handed so many over.
local function serve(limiter, most)
  local aside = queues_aside(limiter)
  for _ = 1, most + 50 do  -- some of the queue are gone
    if most == 0 then return true, true end
    local member = first_place(limiter, aside)
    if not member then return end
    local id = member:match('([^|]*)$')
    local w, l = record(id), unpack_live(redis.call('HGET', LIVE, id))
    if not w or w.granted or place(id, w) ~= member or not waits(l, w) then
      redis.call('ZREM', QUEUE, member)
      if w and not w.granted and place(id, w) == member then redis.call('HDEL', WAITING, id) end
    else
      local queue = known_queues[l.queue]
      if l.state ~= 'running' and not queue then return end  -- this worker does not know it yet; the loop's worker does
      add_paused_type(w, l)
      local other = refusing(w, limiter)
      if other == limiter then return end
      if other then
        enqueue(id, w, other)
        redis.call('ZREM', QUEUE, member)
      elseif l.state ~= 'running' and not has_limits(w) then  -- its type was paused: no permit need be kept for it
        enter_stream(id, l, WAITED)
        redis.call('ZREM', QUEUE, member)
      elseif l.state ~= 'running' and room_in(queue) <= 0 then
        stand_aside(id, w, l)
      else
        hand_to(id, w, l)
        most = most - 1
      end
    end
  end
  return true
end
