-- Prepended to ack.lua, behind _release.lua: releases the permits that tasks were fetched with, and hands them over.
-- released: {task, token, "outcome acquired_ms limiter limiter..."}...   -> {limiter, state}... whose breaker changed
queues(5, ATTEMPTS - 1, 19)
for _, each in ipairs(released) do
  local outcome, at, names = each[3]:match('^(%a+) (%d+) (.*)$')
  for name in names:gmatch('%S+') do
    local r = { id = each[1], token = each[2], permit = '0', at = tonumber(at), outcome = outcome, reserved = 0, cost = 0 }
    release_of(get(name), r)
  end
end
return hand_over()
