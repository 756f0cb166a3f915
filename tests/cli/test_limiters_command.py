"""`sytq limiters` over a real Redis."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner, Result

from sytq import Breaker, Limiter, Permit
from sytq.cli import app
from sytq.errors import InvalidInput
from tests.broker.limiter_play import acquire
from tests.installation import Installation

PROVIDER = Limiter("provider:p", concurrency=2, calls=10, cost=1000, breaker=Breaker(min_calls=1))


def run(installation: Installation, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["limiters", *arguments], env=installation.environ)


def output(installation: Installation, *arguments: str) -> str:
    done = run(installation, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def acquire_permit(installation: Installation, task: str, *limiters: Limiter) -> Permit:
    permit = Permit(task, 1, 1, limiters, cost=100)
    acquire(installation.runtime.limiters, permit)
    return permit


def test_limiters_are_listed_and_shown(installation: Installation) -> None:
    assert output(installation, "list").split() == ["limiter", "state", "held", "waiting", "calls", "cost"]
    assert json.loads(output(installation, "list", "--json")) == []
    host = Limiter("host:example.org:443")
    acquire_permit(installation, "a", PROVIDER, host)
    _header, first, second = output(installation, "list").splitlines()
    assert re.split(r"\s{2,}", first.strip()) == ["host:example.org:443", "closed", "1", "0"]
    assert re.split(r"\s{2,}", second.strip()) == ["provider:p", "closed", "1 of 2", "0", "1 of 10", "100 of 1000"]
    (_, provider) = json.loads(output(installation, "list", "--json"))
    assert (provider["name"], provider["running"], provider["limit"]) == ("provider:p", 1, 2)
    shown = output(installation, "show", "provider:p")
    assert re.search(r"^cost +100 of 1000 in 1m0s *$", shown, re.MULTILINE)
    assert re.search(r"^held by +a *$", shown, re.MULTILINE)
    assert json.loads(output(installation, "show", "provider:p", "--json"))["inside"] == ["a"]


def test_limited_queues_and_paused_types_are_listed(installation: Installation) -> None:
    installation.environ["SYTQ_LIMITERS"] = json.dumps({"queue:llm": {"concurrency": 3, "rate": "5/min"}})
    output(installation, "pause", "type:plain", "--why", "moving")
    _header, queue, paused = output(installation, "list").splitlines()
    assert re.split(r"\s{2,}", queue.strip()) == ["queue:llm", "closed", "0 of 3", "0", "0 of 5"]
    assert re.fullmatch(r"type:plain +paused +0 +since \S+ by .+: moving", paused.strip())
    shown = output(installation, "show", "type:plain")
    assert "held" not in shown and re.search(r"^waiting +0 *$", shown, re.MULTILINE)
    assert json.loads(output(installation, "show", "queue:llm", "--json"))["since"] is None
    assert json.loads(output(installation, "resume", "type:plain", "--json"))["ended"] == "paused"
    assert re.split(r"\s{2,}", output(installation, "list").splitlines()[2].strip()) == ["type:plain", "closed", "0"]


def test_resume_closes_the_circuit_breaker_of_a_type(installation: Installation) -> None:
    permit = acquire_permit(installation, "a", Limiter("type:plain", breaker=Breaker(min_calls=1)))
    permit.report("failed")
    installation.runtime.limiters.release_all([permit])
    assert json.loads(output(installation, "show", "type:plain", "--json"))["state"] == "open"
    assert json.loads(output(installation, "resume", "type:plain", "--json"))["ended"] == "open"
    assert json.loads(output(installation, "show", "type:plain", "--json"))["state"] == "closed"


def test_open_circuit_breaker_shows_its_reason_and_its_end(installation: Installation) -> None:
    permit = acquire_permit(installation, "a", PROVIDER)
    permit.report("failed")
    installation.runtime.limiters.release_all([permit])
    assert "open" in output(installation, "list") and "1 of 1 calls failed" in output(installation, "list")
    seen = json.loads(output(installation, "show", "provider:p", "--json"))
    assert seen["state"] == "open" and seen["until"] > seen["since"]


def test_limiter_is_paused_and_resumed(installation: Installation) -> None:
    acquire_permit(installation, "a", PROVIDER)
    said = output(installation, "pause", "provider:p", "--why", "moving \x1b[31m")
    assert said == "provider:p is paused: 0 tasks wait, 1 task has a permit and goes on\n"
    (row,) = output(installation, "list").splitlines()[1:]
    assert "paused" in row and ": moving" in row and "\x1b" not in row
    seen = json.loads(output(installation, "show", "provider:p", "--json"))
    assert (seen["state"], seen["until"]) == ("paused", None) and seen["by"]
    said = output(installation, "pause", "provider:p", "--why", "again")
    assert f"; it was paused by {seen['by']}: moving" in said
    resumed = {"gate": "provider:p", "paused": False, "ended": "paused", "waiting": 0}
    assert json.loads(output(installation, "resume", "provider:p", "--json")) == resumed
    said = output(installation, "resume", "provider:p")
    assert said == "provider:p is not paused: it is closed, 1 of 2 permits held, 0 tasks wait\n"
    said = output(installation, "pause", "provider:q", "--why", "it is not there yet")
    assert said == "provider:q is paused; no task has used it within the last hour\n"


def wait(installation: Installation, task: str) -> None:
    """Enter the wait queue, as a fetch has a task do."""
    runtime = installation.runtime
    runtime.redis.ask("ZADD", runtime.keys.wait_queues, 0, f"provider:p|1|{1:013}|{task}")


@pytest.mark.parametrize("configuration", ["", "provider:p|old"])
def test_resume_ends_a_tasks_pause_and_tells_how_many_tasks_go_on(
    installation: Installation, configuration: str
) -> None:
    limiters = installation.runtime.limiters
    limiters.pause("provider:p", "llm 1", "HTTP 401", seconds=300, person=False, configuration=configuration)
    for n in range(20):
        wait(installation, f"t{n}")
    said = output(installation, "resume", "provider:p")
    assert said == "provider:p is resumed: 20 tasks go on (paused by llm 1: HTTP 401)\n"
    assert output(installation, "resume", "provider:p").startswith("provider:p is not paused: it is closed, 0 permits ")


def test_resume_closes_an_open_circuit_breaker(installation: Installation) -> None:
    permit = acquire_permit(installation, "a", PROVIDER)
    permit.report("failed")
    installation.runtime.limiters.release_all([permit])
    wait(installation, "b")
    said = output(installation, "resume", "provider:p")
    assert said == "provider:p is resumed: 1 task goes on (its circuit breaker was open: 1 of 1 calls failed)\n"
    assert json.loads(output(installation, "show", "provider:p", "--json"))["state"] == "closed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "provider:none"], "is not in use"),
        (["resume", "provider:none"], "is not in use"),
        (["pause", "two words", "--why", "x"], "is not valid"),
    ],
)
def test_unused_and_invalid_limiter_names_are_refused(
    installation: Installation, arguments: list[str], message: str
) -> None:
    done = run(installation, *arguments)
    assert isinstance(done.exception, InvalidInput) and message in str(done.exception)
