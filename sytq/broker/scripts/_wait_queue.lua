-- Prepended to the limiter scripts that change wait queues, behind _limiters.lua. The record of a waiting task, as JSON
-- in WAITING: {gates (its limiters), at (the one in whose queue it waits), created, units (its cost), token (of the
-- attempt that was refused), till (until when its permit is reserved; nil while none is), fetch (whether a fetch
-- refused it, of which no attempt tells)}
local RESERVED_MS = 5000    -- how long a reserved permit is kept

local function record(id)
  local text = redis.call('HGET', WAITING, id)
  return text and cjson.decode(text)
end

local function dequeue(id, w)
  for _, name in ipairs(w.gates) do
    redis.call('ZREM', QUEUE, name .. '|0|' .. w.created .. '|' .. id, name .. '|1|' .. w.created .. '|' .. id)
  end
  if w.till then redis.call('ZREM', RESERVATIONS, id) end
end

local function enqueue(id, w, limiter)
  w.at, w.till = limiter.name, nil
  redis.call('ZADD', QUEUE, 0, limiter.name .. '|1|' .. w.created .. '|' .. id)
  redis.call('HSET', WAITING, id, cjson.encode(w))
  look_within(limiter, 500)
end

-- Whether a record still holds: its task has neither ended nor run again since.
local function waits(l, w)
  return l and not TERMINAL[l.state] and (l.state == 'queued' or int(l.token) == w.token)
end

-- Which limiter refuses a waiting task: `first` when that one does, else the last of the others, nil when none does.
local function refusing(w, first)
  local found
  for _, name in ipairs(w.gates) do
    if refusal(get(name), count(PERMITS, name), count(QUEUE, name, '0'), 0, w.units) then
      found = get(name)
      if found == first then break end
    end
  end
  return found
end

local delayed = {}  -- queue -> its key
local hastened = false

-- ARGV first to last are queues, KEYS from `key` their delayed sets.
local function queues(first, last, key)
  for a = first, last do delayed[ARGV[a]] = KEYS[key + a - first] end
end

local function reserve(id, w, l)
  for _, name in ipairs(w.gates) do redis.call('ZADD', QUEUE, 0, name .. '|0|' .. w.created .. '|' .. id) end
  w.till = now + RESERVED_MS
  redis.call('ZADD', RESERVATIONS, int(w.till), id)
  redis.call('HSET', WAITING, id, cjson.encode(w))
  -- An attempt that was refused and is not acknowledged yet finds the reservation then (ack.lua).
  if l.state ~= 'running' and redis.call('ZADD', delayed[l.queue], 'XX', 'CH', int(now), id) == 1 then hastened = true end
end

-- Reserves permits for the first tasks in the limiter's queue that all their limiters grant one, at most `most`.
local function serve(limiter, most)
  local first, last = range(limiter.name, '1')
  for _ = 1, most + 50 do  -- some of the queue are gone
    local member = most > 0 and redis.call('ZRANGEBYLEX', QUEUE, first, last, 'LIMIT', 0, 1)[1]
    if not member then return end
    local id = member:match('^[^|]*|1|%d+|(.*)$')
    local w, l = record(id), unpack_live(redis.call('HGET', LIVE, id))
    if not w or w.at ~= limiter.name or not waits(l, w) then
      redis.call('ZREM', QUEUE, member)
      if w and w.at == limiter.name then redis.call('HDEL', WAITING, id) end
    else
      if not delayed[l.queue] then return end  -- a queue that this worker does not know yet; the loop's worker does
      local other = refusing(w, limiter)
      if other == limiter then return end
      redis.call('ZREM', QUEUE, member)
      if other then
        enqueue(id, w, other)
      else
        reserve(id, w, l)
        most = most - 1
      end
    end
  end
end

local function notify()
  if hastened then redis.call('XADD', WAKE_UP, 'MAXLEN', '1', '*', 'due', int(now)) end
end
