-- Reads only. A page of the running tasks of one stream, in the order of its entries, without the messages.
-- KEYS live stream   ARGV group behind most   (behind: an entry id, exclusive, or -)
-- -> {now_ms, {entry, worker, ms since it was fetched, task id or '', its state index entry or ''}...}
local out = { now_ms() }
local behind = ARGV[2] == '-' and '-' or '(' .. ARGV[2]
local reply = redis.pcall('XPENDING', KEYS[2], ARGV[1], behind, '+', tonumber(ARGV[3]))
if reply.err then
  if reply.err:find('NOGROUP') then return out end  -- nobody has consumed it yet
  return reply
end
for _, pending in ipairs(reply) do
  local item, id = redis.call('XRANGE', KEYS[2], pending[1], pending[1])[1], ''
  local fields = item and item[2] or {}
  for i = 1, #fields, 2 do if fields[i] == 'id' then id = fields[i + 1] end end
  out[#out + 1] = { pending[1], pending[2], pending[3], id, redis.call('HGET', KEYS[1], id) or '' }
end
return out
