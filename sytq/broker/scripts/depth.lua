-- Reads only. How many tasks of each stream of a queue wait and run, and how long the first has waited.
-- KEYS the streams   ARGV group    -> per stream {waiting, running, ms or -1}
local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
end

local now, out = now_ms(), {}
for _, stream in ipairs(KEYS) do
  local length, running, oldest = redis.call('XLEN', stream), 0, -1
  if length > 0 then
    local behind = '-'
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      if field(info, 'name') == ARGV[1] then
        running, behind = field(info, 'pending'), '(' .. field(info, 'last-delivered-id')
      end
    end
    -- An entry's id begins with the time at which it was added.
    local first = redis.call('XRANGE', stream, behind, '+', 'COUNT', 1)[1]
    if first then oldest = math.max(now - tonumber(first[1]:match('^%d+')), 0) end
  end
  out[#out + 1] = { math.max(length - running, 0), running, oldest }
end
return out
