-- (nothing) <- dead | cancelled: forgets the ends of these tasks, so that they can be dispatched again.
-- KEYS live progress cancels crashes   ARGV ids...   -> number forgotten
local forgotten = 0
for _, id in ipairs(ARGV) do
  local l = unpack_live(redis.call('HGET', KEYS[1], id))
  if l and (l.state == 'dead' or l.state == 'cancelled') then
    redis.call('HDEL', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('HDEL', KEYS[3], id)  -- requested when Redis did not know the task
    redis.call('HDEL', KEYS[4], id)
    forgotten = forgotten + 1
  end
end
return forgotten
