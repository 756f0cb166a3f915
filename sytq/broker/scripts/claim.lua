-- Claims messages of an external stream: this consumer's own after a lost reply, and those of silent consumers.
-- KEYS stream   ARGV group consumer idle_ms most known name idle_ms... held...
--      known: the number of consumers with an idle time of their own, -1: never   -> {entry, fields, its consumer until now}...
local group, me, idle, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local known, held, out = {}, {}, {}
local first_held = 6 + 2 * tonumber(ARGV[5])
for a = 6, first_held - 1, 2 do known[ARGV[a]] = tonumber(ARGV[a + 1]) end
for a = first_held, #ARGV do held[ARGV[a]] = true end

local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
end

local function take(consumer, for_ms, count)
  for _, pending in ipairs(redis.call('XPENDING', KEYS[1], group, 'IDLE', for_ms, '-', '+', count, consumer)) do
    if #out == most then return end
    if not held[pending[1]] then
      local claimed = redis.call('XCLAIM', KEYS[1], group, me, 0, pending[1])[1]
      if claimed then
        claimed[3] = consumer
        out[#out + 1] = claimed
      else
        redis.call('XACK', KEYS[1], group, pending[1])
      end
    end
  end
end

for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local name, pending = field(info, 'name'), field(info, 'pending')
  local for_ms = known[name] or idle
  if name == me then
    if pending > 0 then take(me, 0, most + #ARGV) end
  elseif for_ms >= 0 then
    if pending > 0 then
      take(name, for_ms, most + #ARGV)
    elseif field(info, 'idle') > for_ms + 60000 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, name)
    end
  end
end
return out
