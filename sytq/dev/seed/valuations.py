"""Made-up valuations: tasks of the type `llm` with their nodes, tokens and spend."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sytq_plugins.llm.spend import SpendRow, money

from sytq.dev.seed import words
from sytq.dev.seed.history import Course, History, Made
from sytq.dev.seed.rows import Rows
from sytq.ledger.models import Step
from sytq.states import DEAD, SUCCEEDED
from sytq.tasktypes.payload import encode

#: No configuration lists this table, so that a valuation that somebody retries reads and writes no row.
TABLE = "seed_records"
#: Provider and model, and the price of a token in and out, in 10^-12 of the currency.
_MODELS = {("deepseek", "deepseek-chat"): (270_000, 1_100_000), ("openai", "gpt-4o-mini"): (150_000, 600_000)}


class Valuations:
    def __init__(self, history: History, rows: Rows) -> None:
        self._history = history
        self._rows = rows

    def make(self, at: dt.datetime, owner: str | None = None, **more: Any) -> Made:
        chance = self._history.random
        good, number = chance.choice(words.GOODS), chance.randrange(10_000, 9_000_000)
        cause = self._history.cause("llm", at)
        # The causes are those of the first.
        (provider, model), prices = chance.choices(list(_MODELS.items()), (1, 0) if cause else (4, 1))[0]
        nodes = chance.choices((1, 2, 3), (70, 20, 10))[0]
        course = Course(chance.lognormvariate(2.9, 0.5) * nodes, chance.expovariate(0.4), cause=cause)
        if chance.random() < 0.06:
            course.failures = [f"{provider}: HTTP 429, too many requests [rate_limited]"]
        calls = [
            self._call(prices, text)
            for text in [*["Notes on the condition and the market."] * (nodes - 1), words.report(good, number)]
        ]
        course.result = {
            "table_name": TABLE,
            "id": number,
            "report": calls[-1]["content"],
            "provider": provider,
            "model": model,
            "usage": calls[-1]["usage"],
            "finish_reason": "stop",
            "cost": [money(call["cost"]) for call in calls],
        }
        owner = owner or chance.choice(words.OWNERS)
        progress = encode({"done": nodes, "of": nodes, "text": "done"})
        about = self._history.about()
        columns = {"queue": "llm", "owner": owner, "metadata": about, "progress": progress, "max_attempts": 5} | more
        made = self._history.ended("llm", {"table_name": TABLE, "id": number}, at, course, **columns)
        self._calls(made, calls, provider, model, number, course)
        return made

    def _call(self, prices: tuple[int, int], text: str) -> dict[str, Any]:
        chance = self._history.random
        prompt, completion = chance.randrange(300, 6000), chance.randrange(120, 1500)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        cost = prompt * prices[0] + completion * prices[1]
        return {"content": text, "usage": usage, "cost": cost}

    def _calls(
        self, made: Made, calls: list[dict[str, Any]], provider: str, model: str, row: int, course: Course
    ) -> None:
        """The steps and the spend of a valuation; a dead task paid for its last call and has no step of it."""
        length = (made.finished_at - made.started_at) / len(calls)
        for number, call in enumerate(calls):
            began, is_lost = made.started_at + length * number, made.state == DEAD and number == len(calls) - 1
            usage = call["usage"]
            self._rows.add(
                SpendRow,
                task_id=made.id,
                token=made.attempts,
                number=number + 1,
                step=f"node-{number}",
                type="llm",
                owner=made.owner,
                table_name=TABLE,
                row_id=row,
                provider=provider,
                model=model,
                day=began.date().isoformat(),
                outcome=course.cause.kind if is_lost and course.cause else "ok",
                reserved=0,
                cost=call["cost"],
                prompt_tokens=usage["prompt_tokens"],
                cached_tokens=usage["prompt_tokens"] // 3,
                completion_tokens=usage["completion_tokens"],
                reasoning_tokens=0,
                began_at=began,
                ended_at=began + length,
            )
            if not is_lost:
                answer = {**call, "model": model, "finish_reason": "stop", "provider": provider}
                answer["cost"] = money(call["cost"])
                self._step(made, f"node-{number}", answer, began, began + length)
        if made.state == SUCCEEDED:
            self._step(made, "report", None, made.finished_at, made.finished_at)

    def _step(self, made: Made, name: str, value: Any, began: dt.datetime, done: dt.datetime) -> None:
        self._rows.add(
            Step,
            task_id=made.id,
            name=name,
            token=made.attempts,
            state="done",
            value=encode(value),
            interrupted=0,
            started_at=began,
            finished_at=done,
        )
