-- Prepended to the limiter scripts: their keys. ARGV[1] is the liveness in ms in every one of them.
local LIVE, WORKERS, WAKE_UP, EPOCH, LIMITERS, SETTINGS, PERMITS, QUEUE, WAITING, ACQUIRED, DUE, CONFIGURED,
  PAUSED = unpack(KEYS, 1, 13)
local now = now_ms()
local liveness = tonumber(ARGV[1])
