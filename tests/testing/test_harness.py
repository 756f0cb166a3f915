"""sytq.testing: a type runs as on a worker, with the clock and the replies of the test."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Any

import pytest
from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Fail, Limiter, Retry, task
from sytq.errors import ConfigError, InvalidInput, OutboundRefused
from sytq.testing import Harness, Reply

URL = "https://example.com/prices"


class Order(BaseModel):
    url: str = URL
    item: str = "oak"


@task("fetching", payload=Order, retry=Backoff(first="10s", factor=3, max_attempts=4, jitter=0), timeout="5s")
def fetching(ctx: Context, order: Order) -> dict[str, Any]:
    ctx.progress(1, 2, "asking")
    answer = ctx.http.post(order.url, json={"item": order.item}, headers={"Authorization": "Bearer x"})
    if not answer.ok:
        raise Retry(reason=f"HTTP {answer.status_code}")
    ctx.detail(status=answer.status_code)
    child = ctx.enqueue("default", {"price": answer.json()}, key="tell")
    return {"price": ctx.step("price", answer.json), "child": child}


@task("gated", payload=Order, retry=Backoff(first="1h", max_age="24h", jitter=0))
async def limited(ctx: AsyncContext, order: Order) -> int:
    async with ctx.acquire(Limiter("shop", concurrency=1)) as permit:
        await ctx.progress(1)
        permit.report("ok")
        answer = await ctx.http.get(order.url)
    if answer.status_code == 404:
        raise Fail("there is no such thing")
    if not answer.ok:
        raise Retry
    return answer.status_code


def test_a_run_has_result_progress_steps_children_and_calls() -> None:
    with Harness(fetching) as harness:
        harness.http.answer(URL, Reply(json=42), method="POST")
        run = harness.run({"item": "elm"})
        (child,) = run.children
        assert (run.state, run.result, run.error) == ("succeeded", {"price": 42, "child": child.id}, None)
        assert run.progress == {"done": 1, "of": 2, "text": "asking"}
        assert (child.type, child.payload, child.parent) == ("default", '{"price":42}', run.id)
        assert [(step.name, step.value) for step in run.steps] == [("price", "42")]
        assert [(each.outcome, each.status) for each in run.attempts] == [("succeeded", 200)]
        (call,) = harness.http.calls
        assert (call.method, call.url, call.json(), call.headers["authorization"]) == (
            "POST", URL, {"item": "elm"}, "Bearer x",
        )  # fmt: skip


def test_the_clock_moves_to_each_attempt_by_the_retry_policy() -> None:
    with Harness(fetching, now=dt.datetime(2026, 7, 1, tzinfo=dt.UTC)) as harness:
        harness.http.answer(URL, 500, 502, 503, Reply(json=1))
        began = time.monotonic()
        run = harness.run({})
        assert (run.state, run.row.attempts) == ("succeeded", 4)
        waits = [(each.next_at - each.finished_at).total_seconds() for each in run.attempts if each.next_at]
        assert [round(wait) for wait in waits] == [10, 30, 90]
        assert 130 <= (harness.clock.now() - dt.datetime(2026, 7, 1, tzinfo=dt.UTC)).total_seconds() < 190
        assert time.monotonic() - began < 60


def test_a_task_is_dead_after_its_attempts_or_max_age() -> None:
    with Harness(fetching) as harness:
        harness.http.otherwise(503)
        assert (run := harness.run({})).error == "HTTP 503 (failed after 4 attempts)"
        assert run.state == "dead"
    with Harness(limited, config={"retry": {"max": "6h"}}) as harness:
        harness.http.otherwise(503)
        run = harness.run({})
        assert (run.state, len(run.attempts)) == ("dead", 7)  # after 0, 1, 3, 7, 13, 19 and 24 hours
        harness.http.otherwise(404)
        assert harness.run({}).error == "there is no such thing"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(error="refused"), "ClientConnectorError"),
        (Reply(error="timeout"), r"timed out after (5|4\.\d)"),
        (Reply(body=b"x" * (2 << 20)), "Expecting value"),
    ],
)
def test_fake_http_fails_as_a_real_server_does(reply: Reply, words: str) -> None:
    with Harness(fetching) as harness:
        harness.http.otherwise(reply)
        run = harness.submit({})
        assert run.start() == "retrying"
        assert re.search(words, run.error or ""), run.error


def test_the_outbound_guard_applies_before_fake_replies() -> None:
    with Harness(fetching) as harness:
        run = harness.submit({"url": "http://127.0.0.1/inside"})
        assert run.start() == "retrying"
        assert OutboundRefused.__name__ in (run.error or "")
        assert harness.http.calls == []


def test_a_call_without_a_fake_reply_fails_the_test() -> None:
    with (
        pytest.raises(AssertionError, match=r"no reply was given for GET https://example\.com/prices"),
        Harness(limited) as harness,
    ):
        assert harness.submit({}).start() == "retrying"


def test_configuration_and_payloads_are_checked_as_in_service() -> None:
    with pytest.raises(ConfigError, match=r"types\.fetching\.timeout"), Harness(fetching, config={"timeout": "soon"}):
        pass
    with Harness(fetching, config={"timeout": "7s"}) as harness:
        assert harness.type.timeout == 7.0
        with pytest.raises(InvalidInput, match="item"):
            harness.submit({"item": 1})
    with Harness("default") as harness:  # one that is installed
        assert harness.run({"a": 1}).result == {"a": 1}


def test_second_task_with_a_unique_key_is_refused_until_the_first_ends() -> None:
    @task("once", payload=Order, unique=lambda order: order.item)
    def once(ctx: Context, order: Order) -> None:
        pass

    with Harness(once) as harness:
        first = harness.submit({})
        with pytest.raises(InvalidInput, match="the same unique key"):
            harness.submit({})
        first.start()
        assert harness.run({}).state == "succeeded"


def test_leaving_a_harness_restores_the_clock() -> None:
    with Harness("default", now=dt.datetime(2001, 1, 1, tzinfo=dt.UTC)) as harness:
        assert harness.clock.now().year == 2001
    assert dt.datetime.now(dt.UTC).year > 2020
