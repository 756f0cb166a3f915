-- Deletes messages of an external stream that other programs acknowledged and left there, if this is the only group:
-- XLEN counts what is not finished.
-- KEYS stream   ARGV group from most   -> where to go on, or '' at the end
local function fields(reply)
  local found = {}
  for i = 1, #reply, 2 do found[reply[i]] = reply[i + 1] end
  return found
end

local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
local group = fields(groups[1] or {})
if #groups ~= 1 or group.name ~= ARGV[1] then return '' end
local length = redis.call('XLEN', KEYS[1])
if length == 0 or type(group.lag) == 'number' and length <= group.pending + group.lag then return '' end

local function before(one, other)
  local ms, number = one:match('(%d+)-(%d+)')
  local other_ms, other_number = other:match('(%d+)-(%d+)')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(number) < tonumber(other_number)
end

-- Trimming leaves no gap, so Redis still knows the lag; a gap at the last delivered entry hides it.
local last = group['last-delivered-id']
local oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2]
local ahead = (redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1] or {})[1]
local first = oldest
-- After `XGROUP SETID` to an earlier entry, messages to be delivered again stand before pending ones.
if ahead and (not oldest or before(ahead, oldest)) then first = ahead end
if first then
  redis.call('XTRIM', KEYS[1], 'MINID', first)
else
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
end
if not oldest then return '' end

local page = redis.call('XRANGE', KEYS[1], ARGV[2], last, 'COUNT', ARGV[3])
if #page == 0 then return '' end
local from, to = page[1][1], page[#page][1]
local pending = {}
for _, one in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], from, to, ARGV[3])) do pending[one[1]] = true end
for _, entry in ipairs(page) do
  if not pending[entry[1]] and not (ahead and entry[1] == last) then redis.call('XDEL', KEYS[1], entry[1]) end
end
return #page == tonumber(ARGV[3]) and '(' .. to or ''
