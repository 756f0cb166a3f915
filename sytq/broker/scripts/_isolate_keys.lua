-- Prepended to isolate.lua: its arguments.
-- KEYS live events workers epoch paused crashes, then per queue: suspects parked rate urgent high normal low
-- ARGV group consumer lease_ms max_tasks, then per queue: limit rate window_ms
local live, events, workers, epoch, PAUSED, crashes = unpack(KEYS, 1, 6)
local group, me, liveness, max_tasks = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()
