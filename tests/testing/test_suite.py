"""Each faulty type fails exactly the standard test that names its fault."""

from __future__ import annotations

import random
import unittest
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from sytq import AsyncContext, Backoff, Context, Fail, Retry, task
from sytq.testing import FakeHttp, Harness, Reply, TypeSuite

URL = "https://example.com/"
TESTS = [name for name in vars(TypeSuite) if name.startswith("test_")]


class Order(BaseModel):
    item: str = "oak"
    token: str = "tok-secret-1"


class Base(TypeSuite):
    payload = {"item": "elm", "token": "tok-secret-1"}  # noqa: RUF012
    secrets = ("tok-secret-1",)

    def fake_http(self, http: FakeHttp) -> None:
        http.answer(URL, Reply(json={"price": 3}))


class Keys(BaseModel):
    password: SecretStr = SecretStr("hush-hush")


@task("good", payload=Order, retry=Backoff(max_attempts=3), config=Keys, unique=lambda order: order.item)
async def good(ctx: AsyncContext, order: Order) -> dict[str, Any]:
    async def price() -> int:
        answer = await ctx.http.get(URL, headers={"Authorization": ctx.config.password.get_secret_value()})
        if answer.status_code == 404:
            raise Fail("there is no price")
        if not answer.ok:
            raise Retry(reason=f"HTTP {answer.status_code}")
        return int(answer.json()["price"])

    ctx.log.info("asking", order=order.model_dump())
    found = await ctx.step("price", price)
    await ctx.enqueue("default", {"price": found}, key="tell")
    return {"price": await ctx.step("double", lambda: _twice(found))}


async def _twice(number: int) -> int:
    return 2 * number


class TestGood(Base):
    type = good
    config = {"password": "hush-hush-2"}  # noqa: RUF012
    secrets = (*Base.secrets, "hush-hush-2")
    failures = (*Base.failures, (404, "dead"))


def fetched(ctx: Context) -> Any:
    answer = ctx.http.get(URL)
    if not answer.ok:
        raise Retry(reason=f"HTTP {answer.status_code}")
    return answer.json()


def suite(function: Any, **more: Any) -> Base:
    declared = task("faulty", payload=more.pop("model", Order), retry=Backoff(max_attempts=3), **more)(function)
    return type("Faulty", (Base,), {"type": declared})()


class Forgetful(BaseModel):
    item: str

    def model_post_init(self, _: Any) -> None:
        self.item = f"{self.item}+"


def impatient(ctx: Context, order: Order) -> None:
    if not ctx.http.get(URL).ok:
        raise Fail("no")


def endless(ctx: Context, order: Order) -> None:
    try:
        fetched(ctx)
    except Exception:
        raise Retry(after="1s", consumes_attempt=False, reason="later") from None


def talkative(ctx: Context, order: Order) -> None:
    ctx.log.info(f"with {order.token}")
    fetched(ctx)


def quoting(ctx: Context, order: Order) -> None:
    answer = ctx.http.get(URL)
    if not answer.ok:
        raise Retry(reason=answer.text)


def careless(ctx: Context, order: Order) -> str:
    ctx.step("one", lambda: fetched(ctx))
    ctx.step("two", int)
    return str(random.random())


def doubling(ctx: Context, order: Order) -> None:
    fetched(ctx)
    ctx.enqueue("default", {}, key=str(random.random()))
    ctx.step("told", int)


FAULTS = {
    "test_the_payload_survives_its_way_through_the_ledger": [(lambda ctx, payload: None, {"model": Forgetful})],
    "test_it_succeeds": [(lambda ctx, order: {}["x"], {})],
    "test_each_failure_has_its_class": [(impatient, {}), (endless, {})],
    "test_no_secret_is_seen": [(talkative, {}), (quoting, {})],
    "test_a_crash_at_any_write_changes_nothing": [(careless, {}), (doubling, {})],
}


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_faulty_type_fails_the_test_that_names_its_fault(name: str, fault: tuple[Any, dict[str, Any]]) -> None:
    function, more = fault
    with pytest.raises(AssertionError):
        getattr(suite(function, **more), name)()


def test_every_standard_test_has_a_faulty_type() -> None:
    assert sorted(TESTS) == sorted(FAULTS)


def test_a_version_without_an_older_example_fails() -> None:
    made = suite(lambda ctx, order: fetched(ctx), version=3, upgrade=lambda payload, version: {"item": payload["what"]})
    with pytest.raises(AssertionError, match="give `older` a payload of version 1"):
        made.test_the_payload_survives_its_way_through_the_ledger()
    type(made).older = {1: {"what": "oak"}, 2: {"wrong": "oak"}}
    with pytest.raises(Exception, match="what"):
        made.test_the_payload_survives_its_way_through_the_ledger()
    type(made).older = {1: {"what": "oak"}, 2: {"what": "oak"}}
    made.test_the_payload_survives_its_way_through_the_ledger()


def test_a_type_without_calls_skips_the_tests_of_calls() -> None:
    quiet = suite(lambda ctx, order: None)
    quiet.test_no_secret_is_seen()
    with pytest.raises(unittest.SkipTest):
        quiet.test_each_failure_has_its_class()


def test_former_names_of_the_hooks_work_and_warn() -> None:
    used: list[str] = []
    with pytest.warns(DeprecationWarning) as warned:

        class Former(TypeSuite):
            type = good
            payload = {"item": "elm"}  # noqa: RUF012

            def outside(self, http: FakeHttp) -> None:
                used.append("outside")
                http.answer(URL, Reply(json={"price": 3}))

            def trial(self) -> Harness:
                used.append("trial")
                return super().trial()

        Former().test_it_succeeds()
        with Base.trial(suite(fetched)) as harness:
            assert harness.type.name == "faulty"
    assert used == ["trial", "outside"]
    said = [str(warning.message) for warning in warned]
    assert said[:2] == [
        "TypeSuite.outside is now fake_http; the old name goes with 0.3",
        "TypeSuite.trial is now harness; the old name goes with 0.3",
    ]
    assert len(said) == 4
