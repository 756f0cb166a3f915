-- running <- queued: an isolated process takes suspects, whose ordinary workers have died twice. It takes half of those
-- whose isolated processes have died most often, so that what kills is soon alone; all of them when what kills is known to
-- be elsewhere; and only one that has crashed alone before.
-- KEYS and ARGV as in _isolate_keys.lua
-- -> {number of the stream among KEYS, entry, id, message, attempts, max, token}...
local PRIORITIES = { 'urgent', 'high', 'normal', 'low' }
local min_token = tonumber(alive(workers, epoch, me, now, liveness)) + 1
local looks = 1000  -- a script must end

-- The number of a task's stream among KEYS.
local function stream_of(l, first)
  for n, priority in ipairs(PRIORITIES) do if l.priority == priority then return first + 2 + n end end
end

local function start(task, together)
  local id, l, record = task.id, task.l, task.record
  local stream = stream_of(l, task.first)
  redis.pcall('XGROUP', 'CREATE', KEYS[stream], group, '0', 'MKSTREAM')
  local entry = redis.call('XADD', KEYS[stream], '*', 'id', id, 'message', task.message)
  redis.call('XCLAIM', KEYS[stream], group, me, 0, entry, 'FORCE', 'JUSTID')
  l.state, l.consumer, l.entry, l.attempts = 'running', me, entry, l.attempts + 1
  l.token = math.max(l.token + 1, now, min_token)
  record.together = together
  keep_crashes(crashes, id, record)
  redis.call('HSET', live, id, pack_live(l))
  redis.call('ZREM', KEYS[task.first], id)
  redis.call('HDEL', KEYS[task.first + 1], id)
  if task.rate > 0 then redis.call('ZADD', KEYS[task.first + 2], now, id .. ':' .. int(l.token)) end
  return { stream, entry, id, task.message, l.attempts, l.max, int(l.token) }
end

local rooms, suspects, level = {}, {}, -1  -- of the highest level
local calm = crashes_of(crashes, 'calm') or {}
for first = 7, #KEYS, 7 do
  local a = 5 + (first - 7) / 7 * 3
  local rate = tonumber(ARGV[a + 1])
  rooms[first] = room_of(group, first + 3, KEYS[first + 2], tonumber(ARGV[a]), rate, now, tonumber(ARGV[a + 2]))
  for _, id in ipairs(looks > 0 and redis.call('ZRANGE', KEYS[first], 0, looks - 1) or {}) do
    looks = looks - 1
    local l, message = unpack_live(redis.call('HGET', live, id)), redis.call('HGET', KEYS[first + 1], id)
    if not (l and message and l.state == 'queued' and l.consumer == SUSPECT) then
      redis.call('ZREM', KEYS[first], id)
    elseif is_paused(l.type) then
      -- Back in its stream: a fetch has it wait for the resumption, without a place in its queue.
      l.consumer, l.entry = '', redis.call('XADD', KEYS[stream_of(l, first)], '*', 'id', id, 'message', message)
      redis.call('HSET', live, id, pack_live(l))
      redis.call('ZREM', KEYS[first], id)
      redis.call('HDEL', KEYS[first + 1], id)
    elseif rooms[first] > 0 then
      local record = crashes_of(crashes, id) or { crashes = 2, level = 0, alone = 0, since = now }
      local own = record.alone > 0 and math.huge or record.level
      if own > level then suspects, level = {}, own end
      if own == level then
        suspects[#suspects + 1] = { id = id, l = l, message = message, record = record, first = first, rate = rate }
      end
    end
  end
end

if #suspects == 0 then redis.call('HDEL', crashes, 'calm') end

local share = level == math.huge and 1 or calm['level ' .. int(level)] and #suspects or #suspects / 2
local chosen = {}
for _, task in ipairs(suspects) do
  if #chosen >= math.min(share, max_tasks) then break end
  if rooms[task.first] > 0 then
    rooms[task.first] = rooms[task.first] - 1
    chosen[#chosen + 1] = task
  end
end
local out, started = {}, {}
for n, task in ipairs(chosen) do
  out[n] = start(task, #chosen)
  started[n] = { task.id, out[n][7], out[n][5], false }
end
if #chosen > 0 then
  redis.call('XADD', events, '*', 'kind', 'started', 'worker', me, 'at', int(now), 'data', cjson.encode(started))
end
return out
