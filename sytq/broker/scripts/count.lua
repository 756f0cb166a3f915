-- What a process has measured is added to what all have. KEYS metrics  ARGV most_fields, then per field: field amount
-- A field that would be one too many is dropped: labels must not fill Redis.
for a = 2, #ARGV, 2 do
  if redis.call('HLEN', KEYS[1]) < tonumber(ARGV[1]) or redis.call('HEXISTS', KEYS[1], ARGV[a]) == 1 then
    redis.call('HINCRBYFLOAT', KEYS[1], ARGV[a], ARGV[a + 1])
  end
end
return redis.call('HLEN', KEYS[1])
