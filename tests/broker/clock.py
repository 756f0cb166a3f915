"""Redis' clock under a test's control: what the scripts and `Redis.time` read, moved ahead without waiting.

Its lead is a key in Redis, so all who read this clock agree. Entry ids of streams, idle times and the expiry of keys
go by the server's own clock.
"""

from __future__ import annotations

import pytest

from sytq.broker import connection
from sytq.broker.connection import Redis

_LEAD = "{sytq}:lead"  # in ms; in the slot of all other keys
_SCRIPT = f"""
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(redis.call('GET', '{_LEAD}') or 0)
end
"""


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this clock to every Redis that is made from now on."""
    part, time = connection._part, Redis.time

    def now(redis: Redis) -> float:
        return time(redis) + lead_ms(redis) / 1000

    monkeypatch.setattr(connection, "_part", lambda name: _SCRIPT if name == "_clock.lua" else part(name))
    monkeypatch.setattr(Redis, "time", now)
    monkeypatch.setattr(Redis, "now_ms", lambda redis: int(now(redis) * 1000))  # which else keeps the time for a while


def lead_ms(redis: Redis) -> int:
    return int(redis.ask("GET", _LEAD) or 0)


def advance_ms(redis: Redis, ms: int) -> None:
    redis.ask("INCRBY", _LEAD, ms)
