"""One attempt of a valuation: its row and its nodes.

A node takes two transactions and none is open during its call. Before the call: the row, the begin of the step, the
record of the call. After it: the answer, what the call cost and, for the last node, the row's end and its callback.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import peewee

from sytq import AsyncContext, Fail, Transaction
from sytq.ledger.refusals import of_own_tables

from . import callback, spend
from .ask import Asking
from .call import Answered, Calls
from .config import LlmSettings
from .node import Node
from .pipeline import nodes, output
from .row import RowLocked, RowMissing, Rows, completed, explain, of_caller
from .standing import STANDING, WRITTEN, Standing
from .telling import Place

if TYPE_CHECKING:
    from . import Valuation


class Attempt:
    """`run` may be called once."""

    def __init__(self, ctx: AsyncContext, payload: Valuation) -> None:
        settings = ctx.settings.of(LlmSettings)
        self._ctx = ctx
        self._table, self._row_id = payload.table_name, payload.id
        self._labels = settings.llm.status_labels
        self._has_pipeline = settings.llm.tables[payload.table_name].pipeline is not None
        self._plan = nodes(settings, payload.table_name)
        self._calls = Calls(ctx, payload.table_name, payload.id)
        self._asking = Asking(ctx, self._calls, payload.model)
        self._row: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        self._standing = Standing(0, False, 0, None)  # at the beginning of the attempt
        self._values: dict[str, Any] = {}  # that were written last
        self._callback_url: str | None = None  # at the beginning, until the end was tried

    async def run(self) -> list[Answered]:
        """The answers of all nodes. Raises Fail when the caller's table cannot hold what is written into it, and
        DatabaseUnavailable for a fault of sytq's own tables."""
        answers: list[Answered] = []
        try:
            for number, node in enumerate(self._plan):
                answers.append(await self._answer(Place(number, len(self._plan), node.name), node))
                self._outputs[node.name] = output(node, answers[-1])
        except peewee.PeeweeException as problem:
            if not of_caller(problem):
                raise of_own_tables(problem, "what sytq records of a valuation") from problem
            reason = explain(problem, self._table, self._values)
            if reason is None:
                raise
            raise Fail(reason) from None
        return answers

    async def _answer(self, place: Place, node: Node) -> Answered:
        try:
            return await self._ctx.step(
                place.step,
                partial(self._asking.ask, place, node, self._row, self._outputs),
                also=partial(self._calls.settle_step, place.step),
                begin=partial(self._begin, place, node),
                end=self._end if place.number + 1 == place.of else None,
                mark=WRITTEN,
            )
        except Exception:
            await self._calls.withdraw()
            raise

    def _begin(self, place: Place, node: Node, tx: Transaction, runs: bool) -> None:
        """Read the row and mark it as processing, at the first node; show the node; record its call."""
        rows = Rows(tx.database, self._table)
        if place.number == 0:
            self._row.clear()
            self._row.update(rows.lock(self._row_id, whole=self._has_pipeline, beside=STANDING, of=self._ctx.id))
            self._standing = before = Standing.of(self._row)
            self._calls.start(before.owner, spend.release(self._ctx.id, before=self._ctx.token) if before.begun else ())
            if not before.written:
                self._write(rows, {"status": self._labels.processing, **self._shown(before.done)})
        elif place.number > self._standing.done:
            self._write(rows, self._shown(place.number))
        if runs:
            url = self._row["callback_url"] or ""
            self._callback_url = url if isinstance(url, str) else None
            self._asking.begin(tx, place, node, self._row, self._outputs)

    def _end(self, tx: Transaction, last: Answered) -> None:
        """Write the report and insert its callback."""
        rows = Rows(tx.database, self._table)
        self._values = completed(self._labels, last["content"], len(self._plan))
        # The answer does not wait for others to be done with the row. The first try does not read the row again.
        url, self._callback_url = self._callback_url, None
        if url is None or not rows.update_free(self._row_id, url, **self._values):
            try:
                url = rows.lock(self._row_id)["callback_url"]
            except RowLocked:
                raise
            except RowMissing:
                raise Fail(
                    f"row {self._row_id} of {self._table} was deleted while its report was made; "
                    "the report stays in this task's steps"
                ) from None
            self._write(rows, self._values)
        body = callback.body(self._table, self._row_id, self._ctx.id, report=last["content"], error=None)
        if refused := callback.send(tx, url, body):
            self._write(rows, {"failed_info": refused, "progress_info": f"done, but {refused}"})

    def _write(self, rows: Rows, values: dict[str, Any]) -> None:
        self._values = values
        rows.update(self._row_id, **values)

    def _shown(self, done: int) -> dict[str, Any]:
        """The row's columns once `done` nodes are done."""
        again = f" (attempt {number_of(self._ctx)})" if self._ctx.attempt > 1 else ""
        said = "writing the report"
        if done < len(self._plan):
            said = Place(done, len(self._plan), self._plan[done].name).say(f"waiting for the answer{again}")
        return {"progress": f"{done}/{len(self._plan)}", "current_task_node": done, "progress_info": said}


def number_of(ctx: AsyncContext) -> str:
    return f"{ctx.attempt} of {ctx.max_attempts}" if ctx.max_attempts else str(ctx.attempt)
