-- Prepended to ack.lua, behind _release.lua: releases the permits that tasks were fetched with, has the tasks wait whose
-- attempts were refused a permit, and hands permits over.
-- released: {task, token, "outcome acquired_ms reserved cost limiter limiter...", kind as in ack.lua}...
-- refused: {task, token, "created cost limiter limiter...", the refusing one first; priority}...
-- -> {limiter, state}... whose breaker changed
queues(group, 4, 19)
local OF_TYPE = { done = 'ok', retry = 'failed', dead = 'failed' }  -- the outcome for the limiter of the task's type
for _, each in ipairs(released) do
  local outcome, at, reserved, cost, names = each[3]:match('^(%a+) (%d+) (%d+) (%d+) (.*)$')
  local r = { id = each[1], token = each[2], permit = '0', at = tonumber(at), outcome = outcome,
    reserved = tonumber(reserved), cost = tonumber(cost) }
  for name in names:gmatch('%S+') do
    r.outcome = name:sub(1, 5) ~= 'type:' and outcome or OF_TYPE[each[4]] or 'ignored'
    release_of(get(name), r)
  end
end
for _, each in ipairs(refused) do
  local created, cost, names = each[3]:match('^(%d+) (%d+) (.*)$')
  local gates = {}
  for name in names:gmatch('%S+') do gates[#gates + 1] = name end
  local limiter = get(gates[1])
  enqueue(each[1], { gates = gates, created = rank(created, each[4]), units = tonumber(cost), token = each[2] }, limiter)
  -- It may have become free since it refused. Where it refuses the calls of some workers alone, the loop hands over.
  if not limiter.state.refused then freed[limiter] = (freed[limiter] or 0) + 1 end
end
return hand_over()
