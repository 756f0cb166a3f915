"""What the dashboard shows of valuations, spend and providers, on each database engine."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from sytq_plugins.llm import days, providers_page, spend_page, task_page
from sytq_plugins.llm.balances import Balances, parsed
from sytq_plugins.llm.config import LlmSettings
from sytq_plugins.llm.spend import SpendRow

from sytq import DashboardContext, clock
from sytq.blocks import Action, Chart, Duration, Fields, Markdown, Size, Table, Text
from sytq.errors import InvalidInput
from sytq.ledger.database import transact
from sytq.ledger.ledger import History
from sytq.service.task_view import task_detail
from tests.plugins.llm.desk import Desk
from tests.plugins.llm.test_spend import priced
from tests.provider import Stage, answers, refuses, says
from tests.servers import poll


def context(desk: Desk, owner: str | None = None, **parameters: str) -> DashboardContext:
    return DashboardContext(desk.runtime, "ada", owner, parameters)


@contextlib.contextmanager
def noon() -> Iterator[Any]:
    """Noon of 2026-07-03, which what the servers' clocks said before does not correct."""
    with time_machine.travel("2026-07-03T12:00:00Z", tick=True) as moved:
        clock.forget()
        yield moved
    clock.forget()


def table(found: Any, caption: str) -> list[list[Any]]:
    (wanted,) = [block for block in found if isinstance(block, Table) and block.caption == caption]
    return [list(row) for row in wanted.rows]


def fields(found: Any) -> dict[str, Any]:
    return {name: value for block in found if isinstance(block, Fields) for name, value in block.values.items()}


def call(desk: Desk, number: int, day: str, cost: int | None, owner: str | None = None, **more: Any) -> None:
    row = {"provider": "scripted", "model": "m", "type": "llm", "outcome": "ok", "step": "node-0"} | more
    at = dt.datetime.fromisoformat(f"{day}T12:00:00")
    made = SpendRow(
        task_id=f"task-{number}", token=1, number=1, day=day, cost=cost, owner=owner, reserved=0, prompt_tokens=100,
        cached_tokens=40, completion_tokens=10, reasoning_tokens=3, began_at=at, ended_at=at, **row,
    )  # fmt: skip
    transact(desk.runtime.database, lambda: made.save(force_insert=True))


def detail(desk: Desk, task_id: str) -> Any:
    row = desk.runtime.ledger.get(task_id)
    assert row is not None
    return task_detail(row, desk.runtime.registry, None, None, History([], [], None))


@pytest.fixture
def spent(desk: Desk) -> Desk:
    """Calls of three days: today two, of which one's cost is not known."""
    desk.configure(LLM__BUDGETS='{"shop": 0.5, "*": 2}', PROVIDERS__SCRIPTED__BUDGET="1")
    call(desk, 1, "2026-07-01", 10**12, "shop")
    call(desk, 2, "2026-07-02", 5 * 10**11, "shop", model="big")
    call(desk, 3, "2026-07-02", 5 * 10**11, None, type="other")
    call(desk, 4, "2026-07-03", 2 * 10**11, "shop")
    call(desk, 5, "2026-07-03", None, "till")
    return desk


def test_spend_is_the_same_before_and_after_days_are_summed(spent: Desk) -> None:
    with noon():
        before = spend_page.spend_page(context(spent))
        work = days.sum_up(spent.runtime)
        assert work is not None and work() == 600
        with spent.runtime.database.connection_context():
            assert {row.day for row in days.SpendDay.select()} == {"2026-07-01", "2026-07-02"}
        call(spent, 6, "2026-07-03", 10**11, "shop")
        after = spend_page.spend_page(context(spent))
    assert float(fields(before)["spent today (UTC)"].amount) == 0.2
    assert table(after, "By model")[1:] == table(before, "By model")[1:]
    assert float(fields(after)["spent today (UTC)"].amount) == 0.3
    assert (fields(before)["calls"], fields(after)["calls"]) == (5, 6)


def test_summed_day_is_summed_again_while_calls_may_still_end(spent: Desk) -> None:
    with noon() as moved:
        work = days.sum_up(spent.runtime)
        assert work is not None
        work()
        call(spent, 7, "2026-07-02", 10**12)  # a lost call, found
        work()
        assert sum(one.cost for one in days.sums(spent.runtime.database, dt.date(2026, 7, 2))) == 22 * 10**11
        moved.move_to("2026-07-09T12:00:00Z")
        work()
        call(spent, 8, "2026-07-02", 10**12)
        work()
        assert sum(one.calls for one in days.sums(spent.runtime.database, dt.date(2026, 7, 2))) == 5


def test_spend_page_groups_by_provider_model_type_and_owner(spent: Desk) -> None:
    with noon():
        found = spend_page.spend_page(context(spent, days="7"))
    assert [(row[0], row[1], float(row[-2].amount), row[-1]) for row in table(found, "By model")] == [
        ("scripted/m", 4, 1.7, 1),
        ("scripted/big", 1, 0.5, 0),
    ]
    assert [row[:4] for row in table(found, "By type")] == [["llm", 4, 400, 160], ["other", 1, 100, 40]]
    assert [row[0] for row in table(found, "By key's owner")] == ["shop", "no owner", "till"]
    (chart,) = [block for block in found if isinstance(block, Chart)]
    assert (len(chart.times), chart.series["cost"][-3:]) == (7, [1.0, 1.0, 0.2])


def test_budget_left_is_the_limit_less_what_is_spent_or_reserved(spent: Desk) -> None:
    with noon():
        found = table(spend_page.spend_page(context(spent)), "Budgets of today (UTC)")
    assert [(row[0], *(float(cell.amount) for cell in row[1:])) for row in found] == [
        ("owner shop", 0.5, 0.2, 0.3),
        ("provider scripted", 1.0, 0.2, 0.8),
    ]


def test_caller_without_admin_sees_its_own_spend_and_budget_alone(spent: Desk) -> None:
    with noon():
        for _ in range(2):
            found = spend_page.spend_page(context(spent, "till"))
            assert fields(found)["calls"] == 1
            assert [row[0] for row in table(found, "By key's owner")] == ["till"]
            assert table(found, "Budgets of today (UTC)") == []
            work = days.sum_up(spent.runtime)
            assert work is not None
            work()
        assert fields(spend_page.overview(context(spent, "shop")))["calls today"] == 1


def test_panel_shows_nodes_with_size_tokens_cost_and_cache_hits(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced())
    usage = {"prompt_tokens": 30, "prompt_cache_hit_tokens": 20, "completion_tokens": 10}
    desk.provider.play(answers("# Report\n\nIt is **worth** 4.", usage=usage))
    desk.add_row()
    task = desk.submit()
    result = desk.run(task)
    found = task_page.panel(context(desk), detail(desk, task))
    [[name, provider, model, count, size, prompt, cached, answer, reasoning, cost, took, state]] = table(found, "Nodes")
    assert (name, provider, model, count) == ("1 report", "scripted", "valuer-1", 1)
    assert (size, prompt, cached, answer, reasoning) == (Size(len("What is it worth?")), 30, 20, 10, 0)
    assert (float(cost.amount), isinstance(took, Duration), state.name) == (0.00005, True, "succeeded")
    shown = desk.runtime.registry.get("llm").blocks({"table_name": "valuation_records", "id": 1}, result)
    assert shown[1] == Markdown("# Report\n\nIt is **worth** 4.")
    assert fields(shown)["model"] == "scripted-1"


def test_panel_says_which_call_was_possibly_charged_twice(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced())
    desk.add_row()
    task = desk.submit()
    killed = threading.Event()

    async def dies(stage: Stage) -> None:
        killed.set()
        await stage.until_gone()

    desk.provider.play(dies, answers())
    desk.abandon(task, killed)
    assert [row[-1].name for row in table(task_page.panel(context(desk), detail(desk, task)), "Nodes")] == ["running"]
    desk.run(task, 2)
    found = task_page.panel(context(desk), detail(desk, task))
    assert [block.text[:40] for block in found if isinstance(block, Text)] == [
        "Possibly charged twice: 1 report. An att"
    ]
    assert [row[3] for row in table(found, "Nodes")] == [2]
    assert [row[-1].name for row in table(found, "Calls")] == ["lost", "succeeded"]


def test_panel_of_a_task_without_calls_says_so(sqlite_desk: Desk) -> None:
    sqlite_desk.add_row()
    task = sqlite_desk.submit()
    assert task_page.panel(context(sqlite_desk), detail(sqlite_desk, task)) == [
        Text("No provider has been called yet.")
    ]


def test_provider_is_paused_and_resumed_with_its_reason(sqlite_desk: Desk) -> None:
    desk, values = sqlite_desk, {"limiter": "provider:scripted", "reason": "the bill"}
    desk.add_row()
    desk.run(desk.submit())
    [provider, _] = table(providers_page.providers_page(context(desk)), "Limits")
    assert provider[1].name == "closed"
    assert providers_page.pause(context(desk), values) == "provider:scripted is paused."
    [row, model] = table(providers_page.providers_page(context(desk)), "Limits")
    assert (row[1].name, row[3]) == ("paused", "the bill (by ada)")
    assert isinstance(row[2], Action) and row[2].path == "/x/llm/providers/resume"
    assert model[0] == "model:scripted/valuer-1"
    assert providers_page.resume(context(desk), values) == "provider:scripted is resumed; 0 tasks were waiting."
    assert providers_page.resume(context(desk), values) == "provider:scripted was not paused."
    for wrong in ({"limiter": "host:a:443", "reason": "x"}, {"limiter": "provider:other", "reason": "x"}, {}):
        with pytest.raises(InvalidInput, match="limiter"):
            providers_page.pause(context(desk), wrong)
    with pytest.raises(InvalidInput, match="reason"):
        providers_page.pause(context(desk), values | {"reason": " "})


def test_providers_are_shown_without_redis(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(REDIS__URL="redis://127.0.0.1:1/0")
    found = providers_page.providers_page(context(sqlite_desk))
    assert isinstance(found[0], Text) and found[0].text.startswith("Redis does not answer")
    assert [row[0] for row in table(found, "Today (UTC)")] == ["scripted"]


def test_balances_are_read_aside_kept_and_shown_to_admins(sqlite_desk: Desk) -> None:
    desk, asked = sqlite_desk, []
    infos = [{"currency": "CNY", "total_balance": "110.00"}, {"currency": "USD", "total_balance": "0.50"}]

    async def tell(stage: Stage) -> None:
        asked.append((stage.asked.path, stage.asked.headers["authorization"]))
        await says(json.dumps({"is_available": True, "balance_infos": infos}), "application/json")(stage)

    def shown(owner: str | None = None) -> list[list[Any]]:
        found = providers_page.providers_page(context(desk, owner))
        tables = [block for block in found if isinstance(block, Table) and block.caption == "Balance"]
        return [list(row) for block in tables for row in block.rows]

    desk.provider.play(tell)
    desk.configure(PROVIDERS__SCRIPTED__BALANCE_URL=desk.provider.base_url.replace("/v1", "/user/balance"))
    assert shown() == [], "the page does not wait for it"
    poll(shown)
    ((name, balance, has_credit, read_at, problem),) = shown()
    assert (name, balance, has_credit, problem) == ("scripted", "110.00 CNY and 0.50 USD", "yes", None)
    assert abs((read_at - dt.datetime.now(dt.UTC)).total_seconds()) < 60
    assert shown("shop") == [], "the account is of all owners"
    assert asked == [("/user/balance", "Bearer sk-scripted")], "it is read once in ten minutes"


@pytest.mark.parametrize(("status", "problem"), [(404, ""), (500, "answers HTTP 500"), (401, "answers HTTP 401")])
def test_a_provider_that_tells_no_balance_has_none(sqlite_desk: Desk, status: int, problem: str) -> None:
    desk, balances = sqlite_desk, Balances()
    desk.provider.play(refuses(status))
    desk.configure(PROVIDERS__SCRIPTED__BALANCE_URL=desk.provider.base_url.replace("/v1", "/user/balance"))
    provider = desk.runtime.settings.of(LlmSettings).providers["scripted"]
    assert balances.look(provider) == (None, "")
    poll(lambda: balances.look(provider) == (None, problem))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"balance_infos": [{"currency": "CNY", "total_balance": "x"}]}'])
def test_a_balance_of_another_form_is_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        parsed(body)
