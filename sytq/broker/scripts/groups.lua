-- Reads only. How far the groups of a stream have read.
-- KEYS stream   -> {group, last entry read}...
local groups = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local g = {}
  for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
  groups[#groups + 1] = { g['name'], g['last-delivered-id'] }
end
return groups
