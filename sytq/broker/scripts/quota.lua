-- Uses quotas, each request as a whole or not at all. A window begins with the first use and ends with its key.
-- KEYS quotas   ARGV per quota: quota, count (0 only reads, below 0 returns), window in ms
-- -> per quota {1 or 0 when it would not fit, used, ms until the window ends}
local out = {}
for i, key in ipairs(KEYS) do
  local quota, count, window = tonumber(ARGV[i * 3 - 2]), tonumber(ARGV[i * 3 - 1]), tonumber(ARGV[i * 3])
  local used, left = tonumber(redis.call('GET', key) or '0'), redis.call('PTTL', key)
  local fits = count <= 0 or used + count <= quota
  if left < 0 then
    used, left = 0, window
    if count > 0 and fits then redis.call('SET', key, 0, 'PX', window) end
  end
  if fits and (count > 0 or (count < 0 and used + count >= 0)) then used = redis.call('INCRBY', key, count) end
  out[i] = { fits and 1 or 0, used, left }
end
return out
