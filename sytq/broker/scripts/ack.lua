-- succeeded | retrying | dead | cancelled | queued <- running: the acknowledgement. Everything that follows from an
-- attempt happens here or not at all, and only while the attempt still holds its task: a call that Redis refused halfway
-- (a right was taken) is repeated, so what must not be lost comes before the change of the index, the rest behind it. If a
-- cancellation was requested and the outcome is no end, the task is cancelled: "event" is for the outcome itself,
-- "if_cancelled" for this case. A task whose attempt was refused a permit waits in the wait queue of the limiter. The permits
-- that the task was fetched with are released, whoever has it by now.
-- KEYS live events stats wake-up deadletters cancels epoch crashes workers, then limiters ... paused as in
--      _limiter_keys.lua, then those of these queues, as in _wait_queue.lua, then per slot: stream delayed bodies queue-wake-up
-- ARGV group consumer liveness_ms, queues as in _wait_queue.lua, then per attempt: slot id type entry token kind attempts
--      delay_ms event message notify if_cancelled permits wanted
--      kind: as in STATE; wait is a retry that uses no attempt; message: '' where the task ends; permits, wanted: '' or as in
--      _release_fetched.lua
-- -> per attempt 1 (done), or 0 (another attempt has the task: nothing changed), then {limiter, state}... whose breaker
--    changed
local STATE = { done = 'succeeded', dead = 'dead', cancelled = 'cancelled', retry = 'retrying', wait = 'retrying',
  ['return'] = 'queued', unreadable = 'dead' }
local STAT = { done = ':succeeded', dead = ':dead', unreadable = ':dead', cancelled = ':cancelled', retry = ':retried',
  wait = ':waited' }
local epoch = tonumber(redis.call('GET', KEYS[7]) or math.huge)
local out, released, refused = {}, {}, {}
local ids, lives = {}, {}
for a = ATTEMPTS, #ARGV, 14 do ids[#ids + 1] = ARGV[a + 1] end
redis.call('HDEL', KEYS[6], '')  -- a full Redis takes the outcomes, for it refuses nothing behind such a first write
local known, cancels = redis.call('HMGET', live, unpack(ids)), redis.call('HMGET', KEYS[6], unpack(ids))
for n, id in ipairs(ids) do lives[id] = unpack_live(known[n]) end

local counts, bells = {}, {}

for n, id in ipairs(ids) do
  local a = ATTEMPTS + (n - 1) * 14
  local slot = SLOTS + (tonumber(ARGV[a]) - 1) * 4
  local stream, delayed, bodies, queue_bell = KEYS[slot + 1], KEYS[slot + 2], KEYS[slot + 3], KEYS[slot + 4]
  local type_name, entry, token, kind = ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  local message = ARGV[a + 9]
  local l = lives[id]
  local done = false
  if kind == 'unreadable' then
    done = redis.call('XPENDING', stream, group, entry, entry, 1, me)[1] ~= nil
    if done then
      redis.call('XADD', KEYS[5], 'MAXLEN', '~', '10000', '*', 'stream', stream, 'entry', entry, 'message', message, 'at', int(now))
    end
    if l and not (l.state == 'running' and l.consumer == me) then l = nil end
  elseif not l then
    -- Redis does not know the task. If the attempt is older than this Redis, Redis was emptied while the task ran: no
    -- other worker has the task, so an end counts (SQL refuses a second one), and a retry is left to the reconciler,
    -- which dispatches the task again. The task of a younger attempt has ended elsewhere and was forgotten.
    done = tonumber(token) <= epoch and TERMINAL[STATE[kind]]
    l = { type = type_name, queue = '', priority = '', attempts = 0, max = 0, token = tonumber(token) }
  else
    done = l.state == 'running' and l.consumer == me and int(l.token) == token
  end
  local event = ARGV[a + 8]
  local asked = done and cancels[n]
  if asked and not TERMINAL[STATE[kind]] then kind, event = 'cancelled', ARGV[a + 11] end
  if done then
    drop_later(stream, entry)
    if l then
      local copy = l.entry or ''  -- registered again after Redis was emptied
      if copy ~= '' and copy ~= entry then drop_later(stream, copy) end
      l.state, l.attempts, l.entry, l.consumer = STATE[kind], tonumber(ARGV[a + 6]), '', ''
      if STATE[kind] == 'retrying' then
        delay(delayed, bodies, bell, id, now + tonumber(ARGV[a + 7]), message)
        if ARGV[a + 13] ~= '' then l.consumer = WAITED end
      elseif kind == 'return' then
        l.entry = redis.call('XADD', stream, '*', 'id', id, 'message', message)
      end
      redis.call('XADD', events, '*', 'kind', 'ended', 'id', id, 'token', token, 'data', event)
      lives[id] = l
      later(2, 'HSET', live, id, pack_live(l))
      local count = STAT[kind] and l.type .. STAT[kind]
      if count then counts[count] = (counts[count] or 0) + 1 end
    end
    if asked then later(3, 'HDEL', KEYS[6], id) end
    if kind == 'retry' then later(3, 'HDEL', KEYS[8], id) end  -- its worker lives: crashes count in a row
    if ARGV[a + 10] == '1' then bells[queue_bell] = true end
  end
  if ARGV[a + 13] ~= '' and l and l.consumer == WAITED and int(l.token) == token then
    refused[#refused + 1] = { id, token, ARGV[a + 13], l.priority }
  end
  if ARGV[a + 12] ~= '' then released[#released + 1] = { id, token, ARGV[a + 12], kind } end
  out[#out + 1] = done and 1 or 0
end
write(group)
for count, number in pairs(counts) do redis.call('HINCRBY', stats, count, number) end
for queue_bell in pairs(bells) do redis.call('XADD', queue_bell, 'MAXLEN', '1', '*', 'free', '1') end
if #released + #refused > 0 then
  for _, change in ipairs(limiters(released, refused)) do out[#out + 1] = change end
end
return out
