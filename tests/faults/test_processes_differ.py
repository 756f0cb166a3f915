"""What differs between processes is told wherever somebody looks: doctor, API, metrics and log, with both sides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.installation import TRIALS, Installation, samples
from tests.processes import Process, worker_command
from tests.receiver import Receiver
from tests.servers import poll
from tests.terminal import sytq

pytestmark = pytest.mark.faults
Make = Callable[..., Installation]
CLOCK = Path(__file__).parents[1] / "clock_plugins"
LOOPBACK = '["127.0.0.0/8"]'


def doctor(installation: Installation, **settings: str) -> dict[str, list[dict[str, Any]]]:
    """The findings that ask for something, by check."""
    done = sytq("doctor", "--json", environ=installation.environ | settings)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["checks"]:
        if finding["verdict"] != "ok":
            assert finding["todo"], finding
            found.setdefault(finding["check"], []).append(finding)
    return found


def start_worker(installation: Installation, **settings: str) -> Process:
    """A worker that consumes two queues."""
    log = installation.folder / f"worker-{len(installation.workers)}.log"
    command = [*worker_command(4), "--queues", "default", "plain"]
    worker = Process(command, installation.environ | settings, log, fresh=True)
    installation.workers.append(worker)
    worker.wait_ready(lambda: "worker started" in worker.text())
    return worker


def said(findings: list[dict[str, Any]], *words: str) -> bool:
    return any(all(word in finding["said"] for word in words) for finding in findings)


def logged(worker: Process, *words: str) -> list[str]:
    lines = [line for line in worker.text().splitlines() if '"processes differ"' in line]
    return [line for line in lines if all(word in line for word in words)]


def test_doctor_anywhere_api_metrics_and_log_name_both_sides(make_installation: Make, receiver: Receiver) -> None:
    installation = make_installation(
        SYTQ_PLUGINS__PATHS=f'["{TRIALS}", "{CLOCK}"]',
        SYTQ_OUTBOUND__ALLOW_NETWORKS=LOOPBACK,
        SYTQ_WEBHOOK__SECRET="whsec_" + "c3l0cS10ZXN0cy1zaWduaW5nLXNlY3JldC0=",
    )
    # Without the API's `allow_networks`, with another secret, on a machine whose clock is ten minutes off.
    worker = start_worker(
        installation,
        CLOCK_OFF="600",
        SYTQ_OUTBOUND__ALLOW_NETWORKS="[]",
        SYTQ_WEBHOOK__SECRET="whsec_" + "b3RoZXItdGVzdHMtc2lnbmluZy1zZWNyZXQ=",
    )
    # Without the types of one folder.
    other = start_worker(installation, SYTQ_PLUGINS__PATHS=f'["{CLOCK}"]')
    installation.submit("plain", "a")  # workers consume every queue that Redis has, of types that they lack too
    waiting = installation.runtime.submitter.prepare("webhook", {"url": receiver.url, "body": "{}"})
    installation.runtime.submitter.submit([waiting])
    installation.start_api()

    poll(
        lambda: len(installation.get("/v2/mismatches")["mismatches"]) >= 5,
        message=lambda: installation.get("/v2/mismatches"),
    )
    found = doctor(installation)
    assert said(found["clocks"], "the clock of ", "ahead of Redis'"), found
    assert said(found["consumers"], "the queue webhook, which no worker consumes", "default, plain"), found
    assert said(found["settings"], "outbound.allow_networks is its default for the worker on", '["127.0.0.0/8"] for'), (
        found
    )
    assert said(found["settings"], "webhook.secret is *** (hash "), found
    assert "c3l0cS" not in str(found) and "b3RoZXI" not in str(found)
    assert said(found["types"], "the type plain is ", "unknown to the worker on"), found
    assert {name for name in found} >= {"clocks", "consumers", "settings", "types"}

    told = {(each["kind"], each["about"]) for each in installation.get("/v2/mismatches")["mismatches"]}
    assert {("queue", "webhook"), ("settings", "outbound.allow_networks"), ("types", "plain")} <= told, told
    workers = {each["pid"]: each for each in installation.get("/v2/workers")["workers"]}
    assert sorted(each["ahead_seconds"] for each in workers.values()) == [0.0, pytest.approx(600, abs=2)]
    assert {tuple(each["queues"]) for each in workers.values()} == {("default", "plain")}
    seen = samples(installation.request("GET", "/metrics").body)
    assert seen['sytq_queue_consumers{queue="webhook"}'] == 0 and seen['sytq_queue_consumers{queue="plain"}'] == 2
    (skew,) = [value for name, value in seen.items() if name.startswith("sytq_clock_skew_seconds")]
    assert skew == pytest.approx(600, abs=2)
    assert seen['sytq_mismatches{kind="queue"}'] == seen['sytq_mismatches{kind="clock"}'] == 1
    assert seen['sytq_mismatches{kind="settings"}'] == 2 and seen['sytq_mismatches{kind="redis"}'] == 0

    both = (worker, other)
    poll(lambda: any(logged(each, "the queue webhook") for each in both), message="one of them says it")
    assert sum(len(logged(each, "the queue webhook")) for each in both) == 1


def test_processes_that_agree_are_not_told_anything(installation: Installation) -> None:
    installation.start_worker()
    installation.start_worker(SYTQ_WORKER__ASYNC_CONCURRENCY="7", SYTQ_LOGGER__LEVEL="debug")
    installation.start_api(SYTQ_API__GRACEFUL_TIMEOUT="3s")
    poll(lambda: len(installation.runtime.cards.apis()) == 1, message="the API has its card")
    assert installation.get("/v2/mismatches") == {"mismatches": []}
    done = sytq("doctor", "--json", environ=installation.environ)
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert checks["processes"]["said"] == "2 workers, 1 API processes and this command agree"


def test_api_of_another_redis_accepts_tasks_and_says_so(make_installation: Make) -> None:
    """P1: the workers of the ledger find what it accepts."""
    installation = make_installation()
    installation.start_worker()
    poll(lambda: installation.runtime.ledger_half.read(), message="the worker has a pair")
    other = {"SYTQ_REDIS__URL": installation.environ["SYTQ_REDIS__URL"].removesuffix("/0") + "/7"}
    api = installation.start_api(**other)
    task = installation.post_task("plain", "a")
    installation.wait_state(task, "succeeded")
    assert installation.notes()["start a"] == 1
    (mismatch,) = installation.get("/v2/mismatches")["mismatches"]
    assert mismatch["kind"] == "redis" and "/7, prefix sytq" in mismatch["message"]
    assert samples(installation.request("GET", "/metrics").body)['sytq_mismatches{kind="redis"}'] == 1
    poll(lambda: "not dispatched to the workers of the ledger" in api.text(), message=api.text)
    found = doctor(installation, **other)
    assert found["pair"][0]["verdict"] == "fail" and said(found["pair"], "/0, prefix sytq", "/7, prefix sytq")


def test_doctor_beside_the_first_redis_names_the_refused_worker(installation: Installation) -> None:
    installation.start_worker()
    poll(lambda: installation.runtime.ledger_half.read(), message="the worker has a pair")
    installation.start_worker(SYTQ_REDIS__PREFIX="elsewhere")
    found = poll(lambda: doctor(installation).get("pair"), timeout=60, message="doctor knows it")
    assert said(found, "does not consume", "prefix elsewhere", "prefix sytq")
