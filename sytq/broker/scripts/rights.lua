-- Tries commands, to learn which of them this user may not run. Redis 7 tells without running them; 6.2 has to.
-- KEYS key   ARGV commands, their words separated by spaces; KEY stands for the key
-- -> {command, what Redis says}... of those that fail: for a right, or on Redis 6.2 for the type of the key
local out = {}
for _, command in ipairs(ARGV) do
  local words = {}
  for word in command:gmatch('%S+') do words[#words + 1] = word == 'KEY' and KEYS[1] or word end
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if not (known and allowed) then
    local reply = redis.pcall(unpack(words))  -- says why
    if type(reply) == 'table' and reply.err then out[#out + 1] = { command, reply.err } end
  end
end
return out
