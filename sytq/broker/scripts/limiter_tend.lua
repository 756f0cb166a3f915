-- Does what time alone brings about: frees the permits of dead workers and those that nobody fetched, hands permits over to
-- tasks whose window, pause or breaker timeout is over, forgets idle limiters. Any worker may run it, any number of times.
-- KEYS as in _limiter_keys.lua, then those of these queues, as in _wait_queue.lua   ARGV liveness_ms most group, and these
--      queues as in _wait_queue.lua
-- -> {number of limiters looked at, ms until the next is due or -1}
local most = tonumber(ARGV[2])
queues(ARGV[3], 4, 14)

-- In how many ms to look at this limiter again; nil when it is to be forgotten. more, gradually: as `serve` returns them.
local function next_look(limiter, more, gradually)
  local s, name = limiter.state, limiter.name
  if more then return gradually and limiter.settings.breaker and 500 or 0 end  -- behind a breaker tasks start gradually
  if count(QUEUE, name) > 0 then
    local wait = s.breaker == 'open' and s.till - now or s.pause and 5000 or 500
    return math.max(500, math.min(wait, 5000))
  end
  if held(limiter) > 0 then return 2000 end
  if s.pause and s.pause.till > 0 then return math.min(s.pause.till - now, 60000) end
  if s.pause or s.refused or s.breaker == 'open' then return 60000 end
  s.idle = s.idle or now
  -- Hosts come and go: when there are many, unused ones are forgotten sooner.
  if now - s.idle < (redis.call('ZCARD', DUE) > 2000 and 60000 or 3600000) then return 60000 end
end

local function forget(name)
  loaded[name] = nil
  redis.call('HDEL', LIMITERS, name)
  redis.call('HDEL', SETTINGS, name)
  redis.call('ZREM', DUE, name)
  redis.call('ZREMRANGEBYLEX', ACQUIRED, range(name))
end

-- Until 0.3: what workers of 0.1 reserved and nobody came for waits again.
local function requeue_reserved(name)
  local from, to = range(name, '0')
  for _, member in ipairs(redis.call('ZRANGEBYLEX', QUEUE, from, to, 'LIMIT', 0, 100)) do
    redis.call('ZREM', QUEUE, member)
    redis.call('ZADD', QUEUE, 0, (member:gsub('|0|', '|1|', 1)))
  end
end

local names = redis.call('ZRANGEBYSCORE', DUE, '-inf', int(now), 'LIMIT', 0, most)
-- No look is further ahead than a minute, unless the clock was set back.
if #names < most then
  local ahead = redis.call('ZRANGEBYSCORE', DUE, '(' .. int(now + 60000), '+inf', 'LIMIT', 0, most - #names)
  for _, name in ipairs(ahead) do names[#names + 1] = name end
end
for _, name in ipairs(names) do
  local limiter = get(name)
  prune(limiter)
  requeue_reserved(name)
  local wait = next_look(limiter, serve(limiter, 20))
  limiter.within = nil
  if wait then redis.call('ZADD', DUE, int(now + wait), name) else forget(name) end
end
save()
local head = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return { #names, head[2] and math.max(tonumber(head[2]) - now, 0) or -1 }
