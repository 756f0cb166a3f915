-- Prepended to the scripts that start tasks or hand permits over to them.

-- How many more tasks of a queue may begin: within the limit on those that run, counted by the pending entries of its four
-- streams (KEYS from `first` on), and within the rate, counted by the starts in the window; 0 is no limit. Starts of the future,
-- as the clock was set back, count for a whole window from now on.
local function room_of(group, first, rate_key, limit, rate, now, window)
  local room = math.huge
  if limit > 0 then
    room = limit
    for k = first, first + 3 do
      local pending = redis.pcall('XPENDING', KEYS[k], group)
      if not pending.err then
        room = room - pending[1]
      elseif not pending.err:find('NOGROUP') then  -- else no worker has read it yet
        return error(pending.err)
      end
    end
  end
  if rate > 0 then
    redis.call('ZREMRANGEBYSCORE', rate_key, '-inf', now - window)
    for _, begun in ipairs(redis.call('ZRANGEBYSCORE', rate_key, '(' .. int(now), '+inf', 'LIMIT', 0, 500)) do
      redis.call('ZADD', rate_key, int(now), begun)
    end
    room = math.min(room, rate - redis.call('ZCARD', rate_key))
  end
  return room
end
