-- Prepended to the scripts that start tasks or hand permits over to them.

-- How many more tasks of a queue may begin: within the limit on those that run, counted by the pending entries of its four
-- streams (KEYS from `first` on), and within the rate, counted by the starts after `since`; 0 is no limit.
local function room_of(group, first, rate_key, limit, rate, since)
  local room = math.huge
  if limit > 0 then
    room = limit
    for k = first, first + 3 do room = room - (redis.pcall('XPENDING', KEYS[k], group)[1] or 0) end  -- else no group yet
  end
  if rate > 0 then
    redis.call('ZREMRANGEBYSCORE', rate_key, '-inf', since)
    room = math.min(room, rate - redis.call('ZCARD', rate_key))
  end
  return room
end
