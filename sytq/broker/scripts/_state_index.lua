-- Prepended to every script. The state index: HASH task id -> "state|type|queue|priority|attempts|max|token|consumer|entry".
-- A terminal state stays as a mark (a tombstone) until the recorder has written it to SQL (forget.lua), so that a finished
-- task never looks unknown.
local function int(n) return string.format('%.0f', n) end

local PARTS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|(.*)$'

local function unpack_live(value)
  if not value then return nil end
  local state, kind, queue, priority, attempts, max, token, consumer, entry = value:match(PARTS)
  return { state = state, type = kind, queue = queue, priority = priority, attempts = tonumber(attempts),
    max = tonumber(max), token = tonumber(token), consumer = consumer, entry = entry }
end

local function pack_live(l)
  return table.concat({ l.state, l.type, l.queue, l.priority, int(l.attempts), int(l.max), int(l.token),
    l.consumer or '', l.entry or '' }, '|')
end

-- The consumer of a queued task that waits beside its stream to run alone: isolate.lua starts it.
local SUSPECT = 'suspect'

-- The consumer of a task that has waited in the wait queue of a limiter since its latest attempt (_wait_queue.lua), and
-- of such a queued task once it holds its permits.
local WAITED, GRANTED = 'waited', 'granted'

local TERMINAL = { succeeded = true, dead = true, cancelled = true }

-- Removes entries: while either step is refused they stay pending, and the next reclaim removes them.
local function drop(stream, group, ...)
  redis.call('XDEL', stream, ...)
  redis.call('XACK', stream, group, ...)
end

-- Delay a task until `due`; notifies the wake-up stream when idle consumers would wake too late for it.
local function delay(delayed, bodies, bell, id, due, body)
  local head = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  redis.call('ZADD', delayed, int(due), id)
  redis.call('HSET', bodies, id, body)
  if not head[2] or tonumber(head[2]) > due then
    redis.call('XADD', bell, 'MAXLEN', '1', '*', 'due', int(due))
  end
end

-- Renews the lease of `me`. If no worker has renewed its lease for a while, Redis was unavailable (or full, or read-only):
-- the leases that were valid until then are renewed too, or the first worker to come back would reclaim the others' tasks.
-- Leases of the future were renewed before the clock was set back: they are as if renewed now, or a dead worker would live until
-- then, and make the others look silent.
-- Returns the epoch: when this Redis was first seen. A changed epoch means that Redis was emptied.
local function alive(workers, epoch, me, now, liveness)
  local newest = tonumber(redis.call('ZREVRANGE', workers, 0, 0, 'WITHSCORES')[2])
  if newest and now - newest > liveness / 2 then
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', workers, int(newest - liveness), '+inf')) do
      redis.call('ZADD', workers, int(now), name)
    end
  end
  if newest and newest > now then
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. int(now), '+inf')) do
      redis.call('ZADD', workers, int(now), name)
    end
  end
  redis.call('ZADD', workers, int(now), me)
  redis.call('SET', epoch, int(now), 'NX')
  return redis.call('GET', epoch)
end
