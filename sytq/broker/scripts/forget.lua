-- Removes the events until a time (Unix ms) that the recorder has written, and the tombstones of the tasks that ended.
-- KEYS events live progress crashes   ARGV group until most    -> number removed
local min_pending, last = nil, '0-0'
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local g = {}
  for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
  if g['name'] == ARGV[1] then last = g['last-delivered-id'] end
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 then min_pending = pending[2] end
local function parts(id) local ms, seq = id:match('(%d+)-(%d+)') return tonumber(ms), tonumber(seq) end
local function before(a, b)
  local am, as = parts(a)
  local bm, bs = parts(b)
  return am < bm or (am == bm and as < bs)
end
local entries, ids, tokens = {}, {}, {}
for _, item in ipairs(redis.call('XRANGE', KEYS[1], '-', ARGV[2], 'COUNT', tonumber(ARGV[3]))) do
  local entry, f = item[1], {}
  if before(last, entry) or (min_pending and not before(entry, min_pending)) then break end
  entries[#entries + 1] = entry
  for i = 1, #item[2], 2 do f[item[2][i]] = item[2][i + 1] end
  if f['id'] then ids[#ids + 1], tokens[#tokens + 1] = f['id'], f['token'] end
end
local ended = {}
for n, known in ipairs(#ids > 0 and redis.call('HMGET', KEYS[2], unpack(ids)) or {}) do
  local l = unpack_live(known)
  if l and TERMINAL[l.state] and int(l.token) == tokens[n] then ended[#ended + 1] = ids[n] end
end
if #ended > 0 then
  for k = 4, 2, -1 do redis.call('HDEL', KEYS[k], unpack(ended)) end  -- the index last, so that a refused call is repeated
end
if #entries > 0 then redis.call('XDEL', KEYS[1], unpack(entries)) end
return #entries
