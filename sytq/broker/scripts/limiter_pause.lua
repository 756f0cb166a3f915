-- A gate is paused or opened, by a person or by what a task found out. A finding neither replaces nor lifts what a
-- person said; a second finding prolongs the first.
-- KEYS as in _limiters.lua   ARGV liveness_ms gate action person by why for_ms
--      action: pause or open; person: 1 when it is one; for_ms: 0 is until it is opened
-- -> 1 when the gate is paused (open) now and was not before, else 0
local g = gate(ARGV[2])
local person = ARGV[4] == '1'
local pause = g.is.pause
local done = 0
if ARGV[3] == 'pause' then
  local length = tonumber(ARGV[7])
  local till = length > 0 and now + length or 0
  if person or not pause then
    g.is.pause = { person = person, by = ARGV[5], why = ARGV[6], at = now, till = till }
    done = pause and 0 or 1
  elseif not pause.person then
    pause.till = (till == 0 or pause.till == 0) and 0 or math.max(till, pause.till)
  end
elseif pause and (person or not pause.person) then
  g.is.pause = nil
  done = 1
end
if done == 1 or g.kept then
  save()
  look_after(g, 0)
end
return done
