-- Which ledger this Redis serves: read, claim or refuse.
-- KEYS pair   ARGV 'read' id, or 'claim' expected_ledger ledger place worker beat, or 'refuse' ledger place worker
-- -> read: {now, name, value, ...}; claim: 1, or 0 when another ledger was faster; refuse: 1
local pair, what, now = KEYS[1], ARGV[1], int(now_ms())
if what == 'read' then
  if ARGV[2] ~= '' then redis.call('HSETNX', pair, 'id', ARGV[2]) end
  local found = redis.call('HGETALL', pair)
  table.insert(found, 1, now)
  return found
end
if what == 'refuse' then
  redis.call('HSET', pair, 'other', ARGV[2], 'other_place', ARGV[3], 'other_worker', ARGV[4], 'other_at', now)
  return 1
end
local ledger = redis.call('HGET', pair, 'ledger') or ''
if ledger ~= ARGV[2] and ledger ~= ARGV[3] then return 0 end
redis.call('HSET', pair, 'ledger', ARGV[3], 'place', ARGV[4], 'worker', ARGV[5], 'seen_at', now)
if tonumber(ARGV[6]) > tonumber(redis.call('HGET', pair, 'beat') or '0') then
  redis.call('HSET', pair, 'beat', ARGV[6])
end
return 1
