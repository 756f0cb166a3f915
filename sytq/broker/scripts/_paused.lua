-- Prepended to the scripts that start tasks or hand permits over: the pauses of task types, each the pause of its limiter
-- `type:NAME` ({by, why, person, at, till}: _limiters.lua). They are in PAUSED alone, where workers of 0.1 look too, and which
-- costs the tasks of types without limits nothing while no type is paused.
local type_pauses

local function type_pause(name)
  if not type_pauses then
    type_pauses = {}
    local found = redis.call('HGETALL', PAUSED)
    for i = 1, #found, 2 do
      local pause = cjson.decode(found[i + 1])
      pause.by, pause.why, pause.till = pause.by or '', pause.why or '', pause.till or 0
      if pause.person == nil then pause.person = true end  -- until 0.3: written by 0.1, which has only by and why
      type_pauses[found[i]] = pause
    end
  end
  return type_pauses[name]
end

local function is_paused(type_name)
  local pause = type_pause(type_name)
  if pause and (pause.till == 0 or pause.till > now) then return true end
end
