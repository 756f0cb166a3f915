"""P2, P3, P6: the network between a worker and Redis fails and recovers."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.broker.connection import Redis
from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.broker.keys import Keys
from sytq.errors import RedisUnavailable
from sytq.worker.loops.recorder import KEEP_MS
from tests.installation import Installation
from tests.processes import Process
from tests.proxy import LostReplies, Proxy
from tests.servers import RedisServer, poll

pytestmark = pytest.mark.faults


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


def remote_worker(installation: Installation, proxy: Proxy, **settings: str) -> Process:
    """A worker that reaches Redis through the proxy, and has used each script."""
    worker = installation.start_worker(**{"SYTQ_REDIS__URL": proxy.url} | settings)
    installation.wait_state(installation.submit("plain", "warm"), "succeeded")
    return worker


def lose(installation: Installation, proxy: Proxy, script: str, times: int = 1, reply: bytes = b"") -> LostReplies:
    redis = installation.runtime.redis
    redis.ask("SCRIPT", "LOAD", redis._scripts[script])  # else the NOSCRIPT reply is lost
    return proxy.lose_replies(redis._digests[script].encode(), times, reply)


def assert_nothing_is_left(installation: Installation) -> None:
    """No message and no pending entry stays in the streams."""
    redis, keys = installation.runtime.redis, installation.runtime.keys
    streams = [stream for declared in installation.runtime.registry for stream in keys.streams(declared.queue)]
    poll(lambda: sum(redis.ask("XLEN", stream) for stream in streams) == 0, message="the streams empty")
    assert sum(depth.running for depth in installation.runtime.inspection.queues()) == 0


def assert_ran_once(installation: Installation, tasks: dict[str, str]) -> None:
    """Each of the tasks (name -> id) started once, at its first attempt, and succeeded."""
    for name, task in tasks.items():
        assert installation.wait_state(task, "succeeded").attempts == 1
        assert (installation.notes()[f"start {name}"], installation.notes()[f"end {name}"]) == (1, 1)


def test_p2_tasks_that_end_during_a_network_cut_end_once(installation: Installation, proxy: Proxy) -> None:
    worker = remote_worker(installation, proxy)
    installation.hold("plain", "gentle")
    tasks = {kind: installation.submit(kind, kind) for kind in ("plain", "gentle")}
    for task in tasks.values():
        installation.wait_state(task, "running")
    proxy.cut()
    installation.release(*tasks)
    tasks["meanwhile"] = installation.submit("plain", "meanwhile")
    for name in ("plain", "gentle"):
        installation.wait_note(f"end {name}")
    poll(lambda: "acknowledgements postponed" in worker.text(), message="the outcomes wait")
    assert installation.row(tasks["plain"]).state == "running"
    proxy.heal()
    assert_ran_once(installation, tasks)
    assert worker.alive
    assert_nothing_is_left(installation)


def test_p6_disconnected_worker_cannot_change_tasks_taken_over(installation: Installation, proxy: Proxy) -> None:
    soon = {"SYTQ_WORKER__LIVENESS": "2s", "SYTQ_WORKER__HEARTBEAT": "500ms"}
    disconnected = remote_worker(installation, proxy, **soon)
    installation.hold("plain", "gentle")
    tasks = {kind: installation.submit(kind, kind) for kind in ("plain", "gentle")}
    for name in tasks:
        installation.wait_note(f"start {name}")
    installation.start_worker(**soon)
    proxy.cut()
    cut = time.time()
    for name in tasks:
        installation.wait_note(f"start {name}", times=2)
        assert installation.moments(f"start {name}")[1] - cut < 4
    installation.release(*tasks)
    for name in tasks:
        installation.wait_note(f"end {name}")
    proxy.heal()  # both attempts of each task are in progress or ended
    poll(lambda: disconnected.text().count("belongs to another attempt") == 2, message="both outcomes are refused")
    for task in tasks.values():
        row = installation.wait_state(task, "succeeded")
        lost, last = installation.runtime.ledger.attempts(task)
        assert (lost.outcome, last.outcome, last.token, row.attempts) == ("lost", "succeeded", row.token, 1)
        assert row.worker == last.worker != lost.worker
    assert_nothing_is_left(installation)
    assert disconnected.alive


def test_p2_tasks_of_a_lost_fetch_reply_run_soon_on_the_same_worker(installation: Installation, proxy: Proxy) -> None:
    # Four times: the client's own repetitions meet the fault too.
    worker = remote_worker(installation, proxy, SYTQ_WORKER__LIVENESS="5m")
    replies = lose(installation, proxy, "fetch", times=4, reply=b"plain-")
    submitted = time.monotonic()
    tasks = {f"{kind}-{n}": installation.submit(kind, f"{kind}-{n}") for kind in ("plain", "gentle") for n in range(3)}
    for name in tasks:
        installation.wait_note(f"end {name}")
    assert time.monotonic() - submitted < 60  # and not after a lease: the worker lives
    assert replies.done
    for name, task in tasks.items():
        assert installation.wait_state(task, "succeeded").attempts == 1
        assert installation.notes()[f"start {name}"] == 1
    attempts = [[one.outcome for one in installation.runtime.ledger.attempts(task)] for task in tasks.values()]
    assert all(words[-1] == "succeeded" and set(words[:-1]) <= {"lost"} for words in attempts)
    assert any(len(words) > 1 for words in attempts), "no reply with a task in it was lost"
    assert worker.alive
    assert_nothing_is_left(installation)


@pytest.mark.parametrize("times", [1, 4], ids=["bridged by the client", "and its repetitions"])
def test_p2_lost_ack_reply_repeats_no_task(installation: Installation, proxy: Proxy, times: int) -> None:
    worker = remote_worker(installation, proxy)
    installation.hold("plain", "gentle")
    tasks = {kind: installation.submit(kind, kind) for kind in ("plain", "gentle")}
    for name in tasks:
        installation.wait_note(f"start {name}")
    replies = lose(installation, proxy, "ack", times)
    installation.release(*tasks)
    assert_ran_once(installation, tasks)
    poll(lambda: replies.done, message="the worker repeats an acknowledgement that has taken effect")
    failing = installation.submit("failing", "f")
    lose(installation, proxy, "ack", times)
    assert installation.wait_state(failing, "dead").attempts == 3  # each retry is scheduled once
    installation.wait_note("dead-3 f")
    assert installation.notes()["start f"] == 3
    assert_nothing_is_left(installation)
    assert worker.alive


def test_p2_lost_promote_reply_starts_a_delayed_task_once(installation: Installation, proxy: Proxy) -> None:
    remote_worker(installation, proxy)
    replies = lose(installation, proxy, "promote", times=4)
    at = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=0.5)
    tasks = {"late": installation.submit("plain", "late", run_at=at)}
    assert_ran_once(installation, tasks)
    poll(lambda: replies.done, message="the worker repeats a promotion that has taken effect")


def test_p2_worker_recovers_from_a_frozen_connection_by_timeouts(installation: Installation, proxy: Proxy) -> None:
    worker = remote_worker(installation, proxy)
    installation.hold("plain", "gentle")
    tasks = {kind: installation.submit(kind, kind) for kind in ("plain", "gentle")}
    for name in tasks:
        installation.wait_note(f"start {name}")
    proxy.freeze()
    installation.release(*tasks)
    tasks["meanwhile"] = installation.submit("plain", "meanwhile")
    poll(lambda: "fetch failed" in worker.text(), message="the fetch gives up")
    poll(lambda: "acknowledgements postponed" in worker.text(), message="so do the outcomes")
    proxy.heal()  # the delayed bytes arrive late, from abandoned connections
    assert_ran_once(installation, tasks)
    assert_nothing_is_left(installation)
    assert worker.alive


def test_p2_a_slow_network_only_delays(installation: Installation, proxy: Proxy) -> None:
    worker = remote_worker(installation, proxy)
    proxy.slow(0.15)
    names = [f"{kind}-{n}" for kind in ("plain", "gentle") for n in range(10)]
    assert_ran_once(installation, {name: installation.submit(name.split("-")[0], name) for name in names})
    assert "Redis" not in worker.text().partition("worker started")[2]


@pytest.mark.parametrize("times", [1, 4], ids=["bridged by the client", "and its repetitions"])
def test_p2_lost_reregister_reply_starts_no_task_twice(tmp_path: Path, own_redis: RedisServer, times: int) -> None:
    proxy = Proxy(own_redis.port)
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    try:
        worker = remote_worker(installation, proxy)
        installation.hold("plain", "gentle")
        tasks = {kind: installation.submit(kind, kind) for kind in ("plain", "gentle")}
        for name in tasks:
            installation.wait_note(f"start {name}")
        replies = lose(installation, proxy, "reregister", times)
        with own_redis.client() as client:
            client.flushdb()
        poll(lambda: replies.done, message="they are re-registered")
        installation.release(*tasks)
        assert_ran_once(installation, tasks)
        assert replies.done
        assert "belongs to another attempt" not in worker.text()
    finally:
        installation.close()
        proxy.close()


def test_p5_dispatch_delayed_by_the_network_is_refused(redis_url: str, proxy: Proxy) -> None:
    near, keys = Redis(redis_url), Keys("sytq")
    far = Dispatcher(Redis(proxy.url, timeout=3), keys)

    def script_calls() -> int:
        said = near.ask("INFO", "commandstats").get("cmdstat_evalsha", {})
        return int(said.get("calls", 0))

    far.dispatch([Envelope("early", "t", "q", "normal", "{}", 1)])
    assert near.ask("HEXISTS", keys.live, "early")
    proxy.freeze()
    with pytest.raises(RedisUnavailable):
        far.dispatch([Envelope("late", "t", "q", "normal", "{}", 1)])
    given_up, before = near.now_ms(), script_calls()
    # By now the reconciler may have dispatched it elsewhere, and it may have ended and been forgotten.
    poll(lambda: near.now_ms() > given_up + KEEP_MS // 2)
    proxy.heal()
    poll(lambda: script_calls() > before, message="the dispatch arrives late")
    assert not near.ask("HEXISTS", keys.live, "late")
