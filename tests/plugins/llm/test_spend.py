"""The exact cost of calls, and budgets that are never overspent."""

from __future__ import annotations

import datetime as dt
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from sytq_plugins.llm import spend
from sytq_plugins.llm.config import Provider
from sytq_plugins.llm.prices import cost, most, tokens
from sytq_plugins.llm.spend import BudgetExhausted, BudgetRow, SpendRow, Tokens, money, units

from sytq.errors import Retry
from sytq.ledger.database import transact
from tests.plugins.llm.desk import Desk
from tests.provider import Stage, answers, refuses, resets, then

#: DeepSeek's prices from the time of its off-peak discount.
PRICES = [
    {"since": "2025-02-08", "input": 0.27, "cached": 0.07, "output": 1.10},
    {"since": "2025-02-08", "hours": "16:30-00:30", "input": 0.135, "cached": 0.035, "output": 0.55},
    {"since": "2025-09-05", "input": 0.56, "cached": 0.07, "output": 1.68, "reasoning": 2},
]
USAGE = {
    "prompt_tokens": 1000,
    "prompt_cache_hit_tokens": 400,
    "completion_tokens": 300,
    "completion_tokens_details": {"reasoning_tokens": 100},
}


def priced(**more: Any) -> str:
    return json.dumps({"valuer-1": {"prices": [{"input": 1, "output": 2}]}} | more)


def provider_of(prices: object, base_url: str = "http://127.0.0.1:9/v1") -> Provider:
    settings = {"base_url": base_url, "model": "m", "models": {"m": {"prices": prices}}}
    return Provider.model_validate(settings)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        # (600 * input + 400 * cached + 200 * output + 100 * reasoning) / 1,000,000, by hand
        ("2025-02-07T23:59:59", None),
        ("2025-02-08T12:00:00", "0.00052"),  # 0.000162 + 0.000028 + 0.00022 + 0.00011
        ("2025-02-08T16:29:59", "0.00052"),
        ("2025-02-08T16:30:00", "0.00026"),
        ("2025-02-09T00:29:59", "0.00026"),
        ("2025-02-09T00:30:00", "0.00052"),
        ("2025-09-04T23:00:00", "0.00026"),
        ("2025-09-05T00:00:00", "0.0009"),  # 0.000336 + 0.000028 + 0.000336 + 0.0002; the discount is over
        ("2025-09-05T17:00:00", "0.0009"),
    ],
)
def test_call_cost_matches_a_hand_calculation(moment: str, expected: str | None) -> None:
    at = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
    found = cost(provider_of(PRICES), "m", tokens(USAGE), at, "CNY")
    assert (None if found is None else money(found)) == expected


def test_cost_of_one_cheap_token_is_exact() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    prices = [{"input": "0.000001", "output": "0.000001"}]
    assert cost(provider_of(prices), "m", Tokens(prompt=1), at, "USD") == 1
    assert money(1) == "0.000000000001"


def test_known_providers_have_built_in_prices_in_usd_only() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    known = Provider.model_validate({"base_url": "https://api.deepseek.com/v1", "model": "deepseek-chat"})
    assert (cost(known, "deepseek-chat", Tokens(prompt=10**6), at, "USD") or 0) > units(Decimal("0.01"))
    assert cost(known, "deepseek-chat", Tokens(prompt=10**6), at, "CNY") is None
    assert cost(provider_of([]), "m", Tokens(prompt=10**6), at, "USD") is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, Tokens(1000, 400, 300, 100)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}, Tokens(10, 4, 0, 0)),
        ({}, Tokens()),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, Tokens()),
        ({"prompt_tokens": True, "completion_tokens": 10**30, "prompt_tokens_details": 7}, Tokens()),
        ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 9}, Tokens(5, 5, 0, 0)),
    ],
)
def test_usage_is_parsed_in_every_form_and_validated(usage: dict[str, Any], expected: Tokens) -> None:
    assert tokens(usage) == expected


def test_cost_bound_covers_the_most_expensive_usage() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    provider = provider_of([{"input": 1, "cached": 0.1, "output": 2, "reasoning": 3}])
    bound = most(provider, "m", 100, 50, at, "USD")
    worst = cost(provider, "m", Tokens(prompt=100, completion=50, reasoning=50), at, "USD")
    assert bound is not None
    assert worst is not None
    assert bound >= worst


def test_every_call_is_recorded_with_its_tokens_and_cost(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced())
    desk.provider.play(answers("cut", finish="length", usage=USAGE), answers(usage=USAGE))
    desk.add_row(9)
    task = desk.submit(9)
    result = desk.run(task)
    assert result["cost"] == ["0.0016"]  # (1000 * 1 + 300 * 2) / 1,000,000
    rows = calls(desk)
    assert [(row.number, row.outcome, row.cost) for row in rows] == [
        (1, "length", 1600 * 10**6),
        (2, "ok", 1600 * 10**6),
    ]
    assert {(r.task_id, r.step, r.type, r.provider, r.model, r.table_name, r.row_id) for r in rows} == {
        (task, "node-0", "llm", "scripted", "valuer-1", "valuation_records", 9)
    }
    assert {(r.prompt_tokens, r.cached_tokens, r.completion_tokens, r.reasoning_tokens) for r in rows} == {
        (1000, 400, 300, 100)
    }
    for by in spend.GROUPS:
        (line,) = spend.summary(desk.runtime.database, by)
        assert (line["calls"], line["prompt"], line["cost"], line["unknown"]) == (2, 2000, "0.0032", 0), by


def test_refused_call_costs_nothing_and_broken_call_cost_is_unknown(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced())
    desk.provider.play(refuses(500), then("Some", resets))
    desk.add_row()
    task = desk.submit()
    for attempt in (1, 2):
        with pytest.raises(Retry):
            desk.run(task, attempt)
    assert [(row.outcome, row.cost) for row in calls(desk)] == [("unavailable", 0), ("broken_off", None)]
    (line,) = spend.summary(desk.runtime.database, "provider")
    assert (line["cost"], line["unknown"]) == ("0", 1)


# -- budgets


def test_concurrent_calls_never_exceed_the_budget(desk: Desk) -> None:
    """Each may cost 7 and costs 5; the budget is 100."""
    database = desk.runtime.database
    limit = {"provider:p": 100, "owner:o": 1000}
    spent: list[int] = []
    waiting = list(range(100))

    def one(number: int) -> None:
        call = SpendRow(
            task_id=f"task-{number:031d}", token=1, number=1, step="node-0", type="llm",
            provider="p", model="m", owner="o",
        )  # fmt: skip

        try:
            reserved = transact(database, lambda: spend.begin(call, 7, limit))
        except BudgetExhausted:
            return
        spent.append(5)
        transact(database, lambda: spend.settle(reserved, "ok", Tokens(), 5))
        transact(database, lambda: spend.settle(reserved, "ok", Tokens(), 5))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, waiting))
    for number in range(100, 104):
        one(number)  # the last calls may be refused while seven others reserve more than they use
    used = {row.subject: row.used for row in rows_of(desk, BudgetRow)}
    assert used == {"provider:p": sum(spent), "owner:o": sum(spent)}
    assert 94 <= sum(spent) <= 100  # the budget is used up and not exceeded


def test_spent_budget_delays_tasks_until_the_next_day_or_a_raise(desk: Desk) -> None:
    # One call may cost (18 + 1000) * 1 + 100 * 2 millionths and costs 0.00005.
    small = {"PROVIDERS__SCRIPTED__MAX_TOKENS": "100", "PROVIDERS__SCRIPTED__MODELS": priced()}
    desk.configure(PROVIDERS__SCRIPTED__BUDGET="0.00125", **small)
    usage = {"prompt_tokens": 30, "completion_tokens": 10}
    desk.provider.play(answers(usage=usage))
    with time_machine.travel("2026-07-01T12:00:00Z", tick=True) as clock:
        desk.add_row(1)
        desk.run(desk.submit(1))
        desk.add_row(2)
        task = desk.submit(2)
        with pytest.raises(Retry, match="the budget of provider scripted for 2026-07-01") as caught:
            desk.run(task)
        assert not caught.value.consumes_attempt
        assert 0 < float(caught.value.after or 0) <= 300
        row = desk.row(2)
        assert (row["failed_times"], len(desk.provider.calls)) == (0, 1)
        assert row["progress_info"].startswith(
            "waiting: the budget of provider scripted for 2026-07-01 (UTC) has no room"
        )
        assert "0.00005 of 0.00125 USD are spent or reserved" in row["progress_info"]

        desk.configure(PROVIDERS__SCRIPTED__BUDGET="0.01", **small)
        desk.run(task)
        desk.configure(PROVIDERS__SCRIPTED__BUDGET="0.0013", **small)
        desk.add_row(3)
        task = desk.submit(3)
        with pytest.raises(Retry):
            desk.run(task)
        clock.move_to("2026-07-02T00:00:01Z")
        desk.run(task)
        assert desk.row(3)["status"] == "completed"


def test_cost_bound_includes_max_tokens_from_extra(desk: Desk) -> None:
    extra = '{"max_tokens": null, "max_completion_tokens": 50000}'
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced(), PROVIDERS__SCRIPTED__EXTRA=extra)
    desk.add_row()
    desk.run(desk.submit())
    assert calls(desk)[0].reserved > 50_000 * 2 * 10**6


def test_each_owner_has_its_own_budget(desk: Desk) -> None:
    budgets = '{"*": 0.001, "rich": 1}'
    desk.configure(LLM__BUDGETS=budgets, PROVIDERS__SCRIPTED__MODELS=priced())
    for id, owner in ((1, "poor"), (2, "rich"), (3, None)):
        desk.add_row(id)
        task = desk.submit(id)
        if owner:
            desk.sql(f"UPDATE sytq_tasks SET owner = '{owner}' WHERE id = '{task}'")
        if owner == "poor":
            with pytest.raises(Retry, match="the budget of owner poor"):
                desk.run(task)
        else:
            desk.run(task)
    assert {row.owner for row in calls(desk)} == {"rich", None}


def test_new_budget_counts_spend_from_earlier_in_the_day(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced())
    desk.add_row(1)
    desk.run(desk.submit(1))
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced(), PROVIDERS__SCRIPTED__BUDGET="1")
    desk.add_row(2)
    desk.run(desk.submit(2))
    (budget,) = rows_of(desk, BudgetRow)
    assert budget.used == sum(row.cost for row in calls(desk)) > 0


def test_budget_without_a_price_is_reported_without_a_call(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__BUDGET="1")
    desk.add_row()
    with pytest.raises(Retry, match=r"set providers\.scripted\.models") as caught:
        desk.run(desk.submit())
    assert (caught.value.consumes_attempt, desk.provider.calls) == (False, [])
    fallback = {"LLM__PROVIDER": "first", "LLM__FALLBACK": '["scripted"]'}
    first = json.dumps({"base_url": desk.provider.base_url, "model": "valuer-2"})
    desk.configure(PROVIDERS__SCRIPTED__BUDGET="1", PROVIDERS__FIRST=first, **fallback)
    desk.provider.play(answers("Half", finish="content_filter"))
    with pytest.raises(Retry) as caught:
        desk.run(desk.submit())
    assert (caught.value.consumes_attempt, len(desk.provider.calls)) == (True, 1)


def test_budget_reserved_by_a_killed_attempt_is_released(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__BUDGET="0.02", PROVIDERS__SCRIPTED__MODELS=priced())
    desk.add_row()
    task = desk.submit()
    killed = threading.Event()

    async def dies(stage: Stage) -> None:
        killed.set()
        await stage.until_gone()

    desk.provider.play(dies, answers())
    desk.abandon(task, killed)
    assert [row.outcome for row in calls(desk)] == ["begun"]
    (budget,) = rows_of(desk, BudgetRow)
    assert budget.used == calls(desk)[0].reserved > 0

    desk.run(task, 2)
    lost, answered = calls(desk)
    assert (lost.outcome, lost.cost, answered.outcome) == ("lost", None, "ok")
    (budget,) = rows_of(desk, BudgetRow)
    assert budget.used == answered.cost


def calls(desk: Desk) -> list[SpendRow]:
    return sorted(rows_of(desk, SpendRow), key=lambda row: (row.token, row.number))


def rows_of(desk: Desk, model: Any) -> list[Any]:
    with desk.runtime.database.connection_context():
        return list(model.select())
