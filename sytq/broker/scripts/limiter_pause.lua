-- Pauses or resumes a limiter, for a person or a task. A task neither replaces nor ends a person's pause; it prolongs an
-- earlier pause of a task.
-- KEYS as in _limiters.lua   ARGV liveness_ms limiter action person by why for_ms
--      action: pause or resume; person: 1 for a person, 0 for a task; for_ms: 0 is until it is resumed
-- -> 1 when the limiter is paused (resumed) now and was not before, else 0
local limiter = get(ARGV[2])
local s, pause = limiter.state, limiter.state.pause
local person = ARGV[4] == '1'
local done = 0
if ARGV[3] == 'pause' then
  local length = tonumber(ARGV[7])
  local till = length > 0 and now + length or 0
  if person or not pause then
    s.pause = { person = person, by = ARGV[5], why = ARGV[6], at = now, till = till }
    done = pause and 0 or 1
  elseif not pause.person then
    pause.till = (till == 0 or pause.till == 0) and 0 or math.max(till, pause.till)
  end
elseif pause and (person or not pause.person) then
  s.pause = nil
  done = 1
end
if done == 1 or limiter.stored then
  save()
  look_within(limiter, 0)
end
return done
