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
  if not w.granted then redis.call('ZREM', QUEUE, place(id, w)) end
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
  if #found == 0 then return true end
  local ids = {}
  for n, permit in ipairs(found) do ids[n] = permit:match(PERMIT) end
  for n, live in ipairs(redis.call('HMGET', LIVE, unpack(ids))) do
    local id, token, _, at = found[n]:match(PERMIT)
    local l = unpack_live(live)
    if not is_held(l, token, tonumber(at)) then
      remove_permits(limiter, found[n])
      local w = record(id)
      if w and w.granted and w.token == token then uncount(limiter, found[n]) end  -- no attempt has had it
      if not l or (l.state ~= 'retrying' and l.state ~= 'queued') then redis.call('HDEL', WAITING, id) end
    end
  end
  return true
end

-- Which limiter refuses a waiting task: `first` when that one does, else the last of the others, nil when none does.
local function refusing(w, first)
  local found
  for _, name in ipairs(w.gates) do
    if refusal(get(name), held(get(name)), 0, w.units) then
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

-- These waiting tasks, as in `judge_first`, are queued from now on; those that were `granted` their permits are fetched before
-- others. They leave the wait queue last, so that they are handed them once more when Redis refused a call halfway.
local function enter_streams(tasks)
  local lists = {}
  for _, task in ipairs(tasks) do
    local id, l, k = task.id, task.l, known_queues[task.l.queue].key
    if l.state == 'retrying' then
      local message = redis.call('HGET', KEYS[k + 1], id)
      l.entry = redis.call('XADD', KEYS[k + (STREAM[l.priority] or STREAM.normal)], '*', 'id', id, 'message', message)
    end
    l.state, l.consumer = 'queued', task.granted and GRANTED or WAITED
    later(2, 'HSET', LIVE, id, pack_live(l))
    later(3, 'HDEL', KEYS[k + 1], id)
    later(3, 'ZREM', KEYS[k], id)
    if task.granted then
      task.w.granted, lists[KEYS[k + 2]] = true, true
      later(3, 'HSET', WAITING, id, cjson.encode(task.w))
      later(3, 'RPUSH', KEYS[k + 2], id)
    end
    later(3, 'ZREM', QUEUE, task.member)
  end
  write()
  for called in pairs(lists) do redis.call('LTRIM', called, -1000, -1) end
end

-- Grants a waiting task the permits of all its limiters. An attempt that waits in place finds them when it asks again.
local function grant_all(id, w, l)
  local wanted = { id = id, token = int(l.token), created = w.created, cost = w.units, permit = w.permit or '0' }
  local all_known = true
  for _, name in ipairs(w.gates) do all_known = all_known and get(name).stated end
  for _, name in ipairs(w.gates) do
    -- As in _admit.lua: where the limits of one are unknown, as it was not used for long, the attempt acquires its permits itself.
    if all_known or name:sub(1, 5) == 'type:' then grant(get(name), wanted, held_by(id, name)) end
  end
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

-- The places of the oldest waiting tasks, at most so many: `limiter|1|...`, and of those that stand aside, where their queue has room.
local function first_places(limiter, most)
  local function places(...)
    local from, to = range(limiter.name, ...)
    return redis.call('ZRANGEBYLEX', QUEUE, from, to, 'LIMIT', 0, most)
  end
  local found = places('1')
  if count(QUEUE, limiter.name, '2') == 0 then return found end
  for name, queue in pairs(known_queues) do
    for _, member in ipairs(room_in(queue) > 0 and places('2', name) or {}) do found[#found + 1] = member end
  end
  table.sort(found, function(one, other) return one:match('|(%d+)|[^|]*$') < other:match('|(%d+)|[^|]*$') end)
  return { unpack(found, 1, math.min(most, #found)) }
end

-- What becomes of a waiting task, {id, record, index, member of the wait queue}. Returns whether it enters its stream, and
-- whether it and all behind it go on waiting.
local function judge_first(limiter, task)
  local id, w, l = task.id, task.w, task.l
  if not w or w.granted or place(id, w) ~= task.member or not waits(l, w) then
    redis.call('ZREM', QUEUE, task.member)
    if w and not w.granted and place(id, w) == task.member then redis.call('HDEL', WAITING, id) end
    return false
  end
  local runs, queue = l.state == 'running', known_queues[l.queue]
  if not runs and not queue then return false, true end  -- this worker does not know it yet; the loop's worker does
  if w.aside and room_in(queue) <= 0 then return false end  -- those before it took the room
  add_paused_type(w, l)
  local other = refusing(w, limiter)
  if other == limiter then return false, true end
  if other then
    enqueue(id, w, other)
    redis.call('ZREM', QUEUE, task.member)
  elseif not runs and not has_limits(w) then  -- its type was paused: no permit need be kept for it
    return true
  elseif not runs and room_in(queue) <= 0 then
    stand_aside(id, w, l)
  else
    grant_all(id, w, l)
    task.granted = true
    if not runs then queue.room = room_in(queue) - 1 else forget_wait(id, w) end
    return not runs
  end
  return false
end

-- Hands permits over to the first tasks in the limiter's queue that all their limiters grant one, at most `most`. Returns
-- whether others may follow, and whether it handed so many over.
local function serve(limiter, most)
  local looks = most + 50  -- some of the queue are gone
  while looks > 0 do
    if most == 0 then return true, true end
    local free = concurrency(limiter) - held(limiter)
    local members = first_places(limiter, math.max(1, math.min(most, looks, 100, free)))
    if #members == 0 then return end
    local ids, entering, refused = {}, {}, false
    for n, member in ipairs(members) do ids[n] = member:match('^.*|(.*)$') end
    local records, index = redis.call('HMGET', WAITING, unpack(ids)), redis.call('HMGET', LIVE, unpack(ids))
    for n, id in ipairs(ids) do
      local task = { id = id, w = records[n] and cjson.decode(records[n]), l = unpack_live(index[n]), member = members[n] }
      local enters, stop = judge_first(limiter, task)
      if enters then entering[#entering + 1] = task end
      if task.granted then most = most - 1 end
      refused = stop
      if stop then break end
    end
    enter_streams(entering)
    if refused then return end
    looks = looks - #members
  end
  return true
end
