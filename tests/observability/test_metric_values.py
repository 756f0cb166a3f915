"""Every metric counts its events, each by the right number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.ledger.models import Task
from sytq.observability import metrics
from sytq.service.prometheus import READ
from tests.installation import TRIALS, Installation, samples
from tests.observability.test_metrics import everything_imported  # noqa: F401 (a fixture that applies by itself)
from tests.processes import Process
from tests.provider import USAGE, ScriptedProvider
from tests.receiver import Receiver
from tests.servers import RedisServer, poll

HARM = Path(__file__).parents[1] / "executor/watchdog_plugins"


class Busy:
    """An API and a worker on which every counted event happens."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.redis = redis
        self.provider, self.receiver = ScriptedProvider(), Receiver(500, 200)
        more = {
            "SYTQ_PLUGINS__PATHS": json.dumps([str(TRIALS), str(HARM)]),
            "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "SYTQ_QUEUES__PLAIN__LIMIT": "7",
            "SYTQ_WORKER__RETRY_INTERVAL": "1s",
            "SYTQ_SCHEDULES__PULSE": '{"type": "default", "every": "1s"}',
            "SYTQ_PROVIDERS__SCRIPTED__BASE_URL": self.provider.base_url,
            "SYTQ_PROVIDERS__SCRIPTED__API_KEY": "sk-scripted",
            "SYTQ_PROVIDERS__SCRIPTED__MODEL": "valuer-1",
            "SYTQ_PROVIDERS__SCRIPTED__LIMITS": '{"running": 5}',
            "SYTQ_PROVIDERS__SCRIPTED__MODELS": json.dumps(
                {"valuer-1": {"prices": [{"since": "2020-01-01", "input": 1000, "output": 2000}]}}
            ),
        }
        self.on = Installation(folder, f"sqlite:///{folder / 'sytq.db'}", redis.url, **more)
        self.on.start_api(PROMETHEUS_MULTIPROC_DIR=str(self.on.metrics))  # the API answers for the worker too
        self.worker: Process = self.on.start_worker()

    def seen(self) -> dict[str, float]:
        reply = self.on.request("GET", "/metrics")
        assert reply.status == 200, self.on.gunicorn.text()[-3000:]
        return samples(reply.body)

    def wait(self, name: str, minimum: float = 1, timeout: float = 90) -> float:
        """Wait until a series is at least `minimum`; returns its value."""
        return poll(
            lambda: value if (value := self.seen().get(name, 0.0)) >= minimum else 0.0,
            timeout=timeout,
            interval=0.3,
            message=lambda: f"{name}: {[line for line in self.seen().items() if line[0][:12] == name[:12]]}",
        )

    def close(self) -> None:
        self.on.close()
        self.provider.close()
        self.receiver.close()


@pytest.fixture
def busy(tmp_path: Path, own_redis: RedisServer) -> Iterator[Busy]:
    one = Busy(tmp_path, own_redis)
    yield one
    one.close()


@pytest.mark.faults
def test_each_metric_counts_its_events(busy: Busy) -> None:
    on = busy.on
    # Outgoing calls: a webhook that fails at first, and one call of a provider with a price.
    assert on.request("POST", "/api/v1/tasks", {"url": busy.receiver.url}).status == 200
    assert on.request("POST", "/api/v1/tasks/llm", {"prompt": "What is it worth?"}).status == 200
    assert busy.wait('sytq_outbound_seconds_count{answer="5xx",url="guarded"}') == 1
    assert busy.wait('sytq_outbound_seconds_count{answer="2xx",url="guarded"}') == 1
    assert busy.wait('sytq_outbound_seconds_count{answer="2xx",url="trusted"}') == 1
    model = 'model="valuer-1",provider="scripted"'
    assert busy.wait(f'sytq_llm_tokens_total{{kind="prompt",{model}}}') == USAGE["prompt_tokens"]
    assert busy.wait(f'sytq_llm_tokens_total{{kind="completion",{model}}}') == USAGE["completion_tokens"]
    cost = USAGE["prompt_tokens"] * 0.001 + USAGE["completion_tokens"] * 0.002
    assert busy.wait(f'sytq_llm_cost_total{{currency="USD",{model}}}', cost / 2) == pytest.approx(cost)
    assert busy.wait('sytq_gate_limit{gate="provider:scripted"}') == 5
    assert busy.wait('sytq_gate_state{gate="provider:scripted",state="closed"}') == 1
    assert busy.wait('sytq_tasks_total{outcome="retried",type="webhook"}') == 1

    # A pause, a limit, a schedule.
    on.runtime.operator.pause("hopeless", "a test", "to see it")
    on.submit("hopeless", "parked")
    assert busy.wait('sytq_queue_parked{queue="plain"}') == 1
    assert busy.wait('sytq_type_paused{type="hopeless"}') == 1
    assert busy.wait('sytq_queue_limit{queue="plain"}') == 7
    assert busy.wait('sytq_schedule_ticks_total{schedule="pulse"}', 2) < 200

    # The reconciler: a row that was not dispatched, and a row that cannot be dispatched.
    lost, hopeless = on.prepare("plain", "lost"), on.prepare("plain", "undispatchable")
    on.runtime.ledger.accept([lost, hopeless], also=lambda: None)
    with on.runtime.database.connection_context():
        Task.update(priority="soonest").where(Task.id == hopeless.id).execute()
    on.wait_note("end lost")
    assert busy.wait('sytq_reconciled_total{finding="unknown_to_redis"}') >= 1
    assert busy.wait('sytq_reconciled_total{finding="not_dispatchable"}') == 1

    # Faults of the service: a blocked event loop, an unreadable event, a failing loop.
    on.submit("blocking", seconds=2.5)
    assert busy.wait('sytq_event_loop_blocked_total{type="blocking"}') == 1
    keys, redis = on.runtime.keys, on.runtime.redis
    redis.ask("XADD", keys.events, "*", "kind", "of a newer release")
    assert busy.wait("sytq_events_set_aside_total") == 1
    on.wait_state(on.submit("plain", "behind it"), "succeeded")
    assert busy.wait("sytq_unreadable") == 1, "the event is set aside once"
    assert "set back" not in busy.worker.text(), "the position moves past an event that cannot be read"
    spoil = "redis.call('DEL', KEYS[1]) redis.call('HSET', KEYS[1], 'no', 'lease')"
    redis.ask("EVAL", spoil, 1, keys.lease("schedule"))
    assert busy.wait('sytq_loop_failures_total{loop="schedule"}') >= 1
    redis.ask("DEL", keys.lease("schedule"))

    seen = busy.seen()
    assert seen["sytq_database_up"] == 1
    # In milliseconds: a heartbeat may have come in this one.
    poll(lambda: 0 < busy.seen()["sytq_heartbeat_age_seconds"] < 4, message="an age of less than a lease")
    assert seen["sytq_workers"] == 1

    # Redis is unavailable: the scrape shows it, and afterwards the number of faults.
    busy.redis.kill()
    poll(lambda: busy.seen()["sytq_redis_up"] == 0, message="Redis is shown as down")
    poll(lambda: "loop waits" in busy.worker.text(), message="the worker notices")
    busy.redis.start()
    assert busy.wait("sytq_redis_up") == 1
    assert busy.wait("sytq_redis_faults_total") >= 1

    shown = {name.partition("{")[0] for name in busy.seen()}
    counted = {f"{name}_count" if metric.kind == "histogram" else name for name, metric in metrics.declared.items()}
    wanted = set(READ) - {"sytq_tasks"} | {name for name in counted if name.startswith("sytq_")}
    elsewhere = {"sytq_gate_waiting", "sytq_log_lines_dropped_total"}  # test_limiter_metrics.py, test_unread_logs.py
    assert wanted - shown <= elsewhere


@pytest.mark.faults
def test_unavailable_database_is_reported_as_down(busy: Busy) -> None:
    """Scrapes ask the database at most every 30 s, as anyone may scrape."""
    assert busy.seen()["sytq_database_up"] == 1
    with busy.on.runtime.database.connection_context():
        busy.on.runtime.database.execute_sql("ALTER TABLE sytq_tasks RENAME TO away")
    poll(lambda: busy.seen()["sytq_database_up"] == 0, timeout=60, interval=1, message="checked every 30 s")
