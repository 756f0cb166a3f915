-- Prepended to the scripts that write for many tasks: gathers the arguments of a command, so that it is called once for all.
-- The stages follow each other: 1 is what must not be lost, 2 the state index, 3 the rest.
local stages, drops

local function begin_stages() stages, drops = { {}, {}, {} }, {} end
begin_stages()

-- `one` and `two`, if given, follow the key.
local function later(stage, command, key, one, two)
  local calls, name = stages[stage], command .. key
  if not calls[name] then
    calls[name] = { command, key }
    calls[#calls + 1] = calls[name]
  end
  local call = calls[name]
  call[#call + 1] = one
  call[#call + 1] = two
end

-- The entry leaves its stream behind all that.
local function drop_later(stream, entry)
  drops[stream] = drops[stream] or {}
  table.insert(drops[stream], entry)
end

local function write(group)
  for _, calls in ipairs(stages) do
    for _, call in ipairs(calls) do redis.call(unpack(call)) end
  end
  for stream, entries in pairs(drops) do drop(stream, group, unpack(entries)) end
  begin_stages()
end
