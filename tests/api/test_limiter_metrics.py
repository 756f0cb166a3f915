"""Metrics of limiters: the configured and the paused, and a bounded number of hosts."""

from __future__ import annotations

from typing import Any

from sytq import Limiter, Permit
from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.limiters import Limiters
from tests.broker.limiter_play import acquire


def test_metrics_show_configured_limiters_and_not_every_host(make_api: Any, redis_url: str) -> None:
    limiters = Limiters(Redis(redis_url), Keys("sytq"), 4.0)
    for n in range(30):
        acquire(limiters, Permit(f"t{n}", 1, 1, [Limiter(f"host:h{n:02}.example.org:443")], 0))
    acquire(limiters, Permit("t", 1, 1, [Limiter("provider:p", concurrency=2)], 0))
    limiters.pause("host:h29.example.org:443", "ann", "why")
    text = make_api().request("GET", "/metrics").body.decode()
    assert 'sytq_gate_running{gate="provider:p"} 1.0' in text
    assert 'sytq_gate_limit{gate="provider:p"} 2.0' in text
    assert 'sytq_gate_waiting{gate="provider:p"} 0.0' in text
    assert 'sytq_gate_state{gate="provider:p",state="closed"} 1.0' in text
    assert 'sytq_gate_state{gate="host:h29.example.org:443",state="paused"} 1.0' in text
    assert text.count('sytq_gate_running{gate="host:') == 20
