-- Pauses or resumes a limiter, for a person or a task. A task neither replaces nor ends a person's pause; it prolongs an
-- earlier pause of a task. A task's pause may concern the calls of one configuration alone: what was refused is one key.
-- KEYS as in _limiter_keys.lua   ARGV liveness_ms limiter action person by why for_ms configuration since_ms
--      action: pause or resume; person: 1 for a person, 0 for a task; for_ms: 0 is until it is resumed;
--      configuration: scope|fingerprint, '' for every call; since_ms: '' is now
-- -> pause: 1 when the limiter is paused now and was not before, else 0
--    resume: {what held it: paused, open, half_open or '', by, why, number of waiting tasks}
local limiter = get(ARGV[2])
local s, configuration = limiter.state, ARGV[8]
local person = ARGV[4] == '1'

if ARGV[3] == 'pause' then
  local length = tonumber(ARGV[7])
  local till = length > 0 and now + length or 0
  local own = not person and configuration ~= ''
  local known = own and s.refused and s.refused[configuration] or not own and s.pause or nil
  local new = { person = person, by = ARGV[5], why = ARGV[6], at = tonumber(ARGV[9]) or now, till = till }
  if known and not person and not known.person then
    known.till = (till == 0 or known.till == 0) and 0 or math.max(till, known.till)
  elseif own then
    s.refused = s.refused or {}
    s.refused[configuration] = new
    redis.call('ZADD', CONFIGURED, int(now), configuration)
  elseif person or not known then
    s.pause = new
  end
  look_within(limiter, 0)
  save()
  return (known or own and s.pause) and 0 or 1
end

local held, by, why = '', '', ''
local pause = pause_of(limiter)
if not pause and person then  -- that of some workers' key, beside others with another key
  for _, its in ipairs(configured or {}) do pause = pause or (s.refused or {})[its] end
end
if pause and (person or not pause.person) then
  held, by, why = 'paused', pause.by, pause.why
elseif not pause and person and s.breaker ~= 'closed' then
  held, why = s.breaker, s.why or ''
end
if person then
  s.pause = nil
  if s.breaker ~= 'closed' then set_breaker(limiter, 'closed') end
elseif s.pause and not s.pause.person then
  s.pause = nil
end
if not s.pause then s.refused = nil end
if limiter.stored or limiter.pause then
  look_within(limiter, 0)
  save()
end
return { held, by, why, count(QUEUE, limiter.name) }
