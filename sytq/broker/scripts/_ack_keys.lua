-- Prepended to ack.lua: its arguments.
local live, events, stats, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, me = ARGV[1], ARGV[2]
local number_of_queues = tonumber(ARGV[4])
local SLOTS, ATTEMPTS = 18 + 9 * number_of_queues, 5 + 4 * number_of_queues
local LIVE, WORKERS, WAKE_UP = live, KEYS[9], bell
local LIMITERS, SETTINGS, PERMITS, QUEUE, WAITING, ACQUIRED, DUE, CONFIGURED, PAUSED = unpack(KEYS, 10, 18)
local liveness = tonumber(ARGV[3])
local now = now_ms()
