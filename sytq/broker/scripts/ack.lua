-- succeeded | retrying | dead | cancelled | queued <- running: the acknowledgement. Everything that follows from a
-- run happens here or not at all, and only while the run still holds its task. A run that was to be cancelled and
-- did not end by itself ends so: ARGV "event" is for its own kind, "if_cancelled" for that case. One that a limiter refused
-- and that has a reserved permit meanwhile is due at once.
-- KEYS live events stats wake-up deadletters cancels epoch waiting, then per slot: stream delayed bodies queue-wake-up
-- ARGV group consumer, then per run: slot id type entry token kind attempts delay_ms event message ring if_cancelled
--      kind: as in STATE; wait is a retry after a run that used no attempt
-- -> per run 1 (done) or 0 (no longer ours: nothing changed)
local live, events, stats, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, me = ARGV[1], ARGV[2]
local STATE = { done = 'succeeded', dead = 'dead', cancelled = 'cancelled', retry = 'retrying', wait = 'retrying',
  ['return'] = 'queued', unreadable = 'dead' }
local STAT = { done = ':succeeded', dead = ':dead', unreadable = ':dead', cancelled = ':cancelled', retry = ':retried',
  wait = ':waited' }
local epoch = tonumber(redis.call('GET', KEYS[7]) or math.huge)
local now, out = now_ms(), {}
for a = 3, #ARGV, 12 do
  local slot = 8 + (tonumber(ARGV[a]) - 1) * 4
  local stream, delayed, bodies, queue_bell = KEYS[slot + 1], KEYS[slot + 2], KEYS[slot + 3], KEYS[slot + 4]
  local id, type_name, entry, token, kind = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  local message = ARGV[a + 9]
  local l = unpack_live(redis.call('HGET', live, id))
  local done = false
  if kind == 'unreadable' then
    done = redis.call('XPENDING', stream, group, entry, entry, 1, me)[1] ~= nil
    if done then
      redis.call('XADD', KEYS[5], 'MAXLEN', '~', '10000', '*', 'stream', stream, 'entry', entry, 'message', message, 'at', int(now))
    end
    if l and not (l.state == 'running' and l.consumer == me) then l = nil end
  elseif not l then
    -- A start that is older than this Redis: it was emptied while the task ran. Nobody else has it, so an end is an
    -- end (SQL refuses a second one); for another try the reconciler enters it again. A younger start's task has
    -- ended elsewhere and is forgotten.
    done = tonumber(token) <= epoch and TERMINAL[STATE[kind]]
    l = { type = type_name, queue = '', priority = '', attempts = 0, max = 0, token = tonumber(token) }
  else
    done = l.state == 'running' and l.consumer == me and int(l.token) == token
  end
  local event = ARGV[a + 8]
  if done and redis.call('HDEL', KEYS[6], id) == 1 and not TERMINAL[STATE[kind]] then
    kind, event = 'cancelled', ARGV[a + 11]
  end
  if done then
    redis.call('XACK', stream, group, entry)
    redis.call('XDEL', stream, entry)
    if l then
      if l.entry and l.entry ~= '' and l.entry ~= entry then  -- entered anew after Redis was emptied
        redis.call('XACK', stream, group, l.entry)
        redis.call('XDEL', stream, l.entry)
      end
      l.state, l.attempts, l.entry, l.consumer = STATE[kind], tonumber(ARGV[a + 6]), '', ''
      if STATE[kind] == 'retrying' then
        local waits = redis.call('HGET', KEYS[8], id)
        local w = waits and cjson.decode(waits)
        local reserved = w and w.till and w.token == token
        delay(delayed, bodies, bell, id, now + (reserved and 0 or tonumber(ARGV[a + 7])), message)
      elseif kind == 'return' then
        l.entry = redis.call('XADD', stream, '*', 'id', id, 'message', message)
      end
      redis.call('HSET', live, id, pack_live(l))
      redis.call('XADD', events, '*', 'kind', 'ended', 'id', id, 'token', token, 'data', event)
      if STAT[kind] then redis.call('HINCRBY', stats, l.type .. STAT[kind], 1) end
    end
    if ARGV[a + 10] == '1' then redis.call('XADD', queue_bell, 'MAXLEN', '1', '*', 'free', '1') end
  end
  out[#out + 1] = done and 1 or 0
end
return out
