-- What no passage does: places of dead workers and promises that nobody kept are given up, those who wait for a time
-- are called, idle gates are forgotten. Any worker may run it, any number of times.
-- KEYS as in _limiters.lua, then the delayed sets of these queues   ARGV liveness_ms most queues...
-- -> {gates looked at, ms until the next is due or -1}
local most = tonumber(ARGV[2])
queues(3, #ARGV)

for _, id in ipairs(redis.call('ZRANGEBYSCORE', PROMISES, '-inf', int(now), 'LIMIT', 0, 100)) do
  local w = record(id)
  redis.call('ZREM', PROMISES, id)
  if w then  -- ended, at work, or waits for a worker: when it comes its age is its place in line
    step_out(id, w)
    redis.call('HDEL', WAITING, id)
    for _, name in ipairs(w.gates) do look_after(gate(name), 0) end
  end
end

local names = redis.call('ZRANGEBYSCORE', DUE, '-inf', int(now), 'LIMIT', 0, most)
for _, name in ipairs(names) do
  local g = gate(name)
  prune(g)
  serve(g, 20)
  local is, wait = g.is, 60000
  if tally(LINE, name) > 0 then
    wait = is.breaker == 'open' and is.till - now or is.pause and 5000 or 500
    wait = math.max(500, math.min(wait, 5000))
  elseif tally(PLACES, name) > 0 then
    wait = 2000
  elseif not is.pause and is.breaker ~= 'open' then
    is.idle = is.idle or now
    -- Hosts come and go: when there are many, those are forgotten sooner that nobody uses.
    if now - is.idle >= (redis.call('ZCARD', DUE) > 2000 and 60000 or 3600000) then wait = nil end
  end
  if wait then
    redis.call('ZADD', DUE, int(now + wait), name)
  else
    loaded[name] = nil
    redis.call('HDEL', GATES, name)
    redis.call('HDEL', SETTINGS, name)
    redis.call('ZREM', DUE, name)
    redis.call('ZREMRANGEBYLEX', CALLS, of(name))
  end
end
save()
ring()
local head = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return { #names, head[2] and math.max(tonumber(head[2]) - now, 0) or -1 }
