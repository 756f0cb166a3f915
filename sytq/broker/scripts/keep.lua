-- Keeps the result of a step that the database does not take now; the task's next attempt begins with it.
-- KEYS live results epoch   ARGV id token field result
-- -> 1, or 0 (nothing changed) when a later attempt has the task or it has ended
local l = unpack_live(redis.call('HGET', KEYS[1], ARGV[1]))
if l then
  if TERMINAL[l.state] or l.token > tonumber(ARGV[2]) then return 0 end
elseif tonumber(ARGV[2]) > tonumber(redis.call('GET', KEYS[3]) or math.huge) then
  return 0  -- younger than this Redis and not known to it: the task has ended elsewhere and was forgotten
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
