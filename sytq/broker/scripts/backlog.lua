-- Reads only. How far the recorder is behind: how many events the ledger lacks, and the age of the first.
-- KEYS events deadletters   ARGV group   -> {count, ms, number of dead letters}
local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
end

local aside = redis.call('XLEN', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 then return { 0, 0, aside } end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  if field(info, 'name') == ARGV[1] then
    local first = redis.call('XPENDING', KEYS[1], ARGV[1])[2]
    if not first then
      local waiting = redis.call('XRANGE', KEYS[1], '(' .. field(info, 'last-delivered-id'), '+', 'COUNT', 1)[1]
      first = waiting and waiting[1]
    end
    local age = first and math.max(now_ms() - tonumber(first:match('^%d+')), 0) or 0
    return { field(info, 'pending') + (field(info, 'lag') or 0), age, aside }
  end
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]  -- no worker has run yet
return { redis.call('XLEN', KEYS[1]), first and math.max(now_ms() - tonumber(first[1]:match('^%d+')), 0) or 0, aside }
