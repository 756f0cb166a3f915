"""Task type `llm`: asks a chat provider about a row, writes the report into the row and sends a callback.

The report and its callback are one transaction. No transaction is open during a provider's call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import peewee
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sytq import (
    AsyncContext,
    Backoff,
    Cancelled,
    DashboardPage,
    Death,
    Fail,
    Lost,
    Plugin,
    Retry,
    Transaction,
    Waiting,
    clock,
    task,
)
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.models import Task, UniqueKey
from sytq.ledger.refusals import of_own_tables
from sytq.runtime import Runtime
from sytq.tasktypes.payload import encode

from . import callback, days, providers_page, spend, spend_page
from .ask import Asking
from .call import Answered, Calls, Place
from .config import LlmSettings, warnings
from .explanations import EXPLANATIONS
from .node import Node
from .obstacles import watch
from .pickup import pick_up
from .pipeline import nodes, output
from .row import (
    RowMissing,
    Rows,
    ValuationRecord,
    completed,
    explain,
    failed,
    is_written,
    mark_written,
    of_caller,
    standing,
)
from .targets import chain
from .task_page import panel, show
from .time_limit import timeout_of

T = TypeVar("T")


def _checks(settings: Settings) -> Mapping[str, Any]:
    from .doctor import providers
    from .doctor_database import answers, tables

    return {"tables": tables, "answers": answers, **providers(settings)}


def _routes() -> Mapping[str, Any]:
    from .api import Sums

    return {"/v2/spend": Sums}


def _configurations(runtime: Runtime) -> list[str]:
    own = runtime.settings.of(LlmSettings)
    return [*own.provider_configurations.values(), own.llm_budgets]


plugin = Plugin(
    "llm",
    settings=LlmSettings,
    warnings=warnings,
    checks=_checks,
    models=(ValuationRecord, spend.SpendRow, spend.BudgetRow, days.SpendDay),
    migrations=Path(__file__).parent / "migrations",
    loops={"pickup": pick_up, "llm.tables": watch, "llm.days": days.sum_up},
    configurations=_configurations,
    routes=_routes,
    explanations=EXPLANATIONS,
    pages={
        "spend": DashboardPage("Spend", spend_page.spend_page, parameters=("days",)),
        "providers": DashboardPage(
            "Providers",
            providers_page.providers_page,
            actions={"pause": providers_page.pause, "resume": providers_page.resume},
            action_scope="admin",
        ),
    },
    overview=spend_page.overview,
)

_RESULT_REPORT = 240 << 10  # characters of JSON: the limit of a result (256 KiB), less its other fields


class Valuation(BaseModel):
    """A row of a table of `llm.tables`."""

    model_config = ConfigDict(extra="forbid")

    table_name: str = Field(min_length=1, max_length=64)
    id: int = Field(ge=-(2**63), lt=2**63, description="The row's primary key, not 0")
    model: str | None = Field(default=None, min_length=1, max_length=200)

    @field_validator("id")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must not be 0")
        return value


def _unique(payload: Valuation) -> str:
    return f"{payload.table_name}:{payload.id}"


def _limiters(payload: Valuation, settings: Settings) -> list[str]:
    """The limiters of the first call, where one provider alone can answer it: a fallback is asked by an attempt."""
    own = settings.of(LlmSettings)
    if payload.table_name not in own.llm.tables:
        return []  # the attempt says so
    targets = chain(own, nodes(own, payload.table_name)[0], payload.model)
    return targets[0].limiter_names if len(targets) == 1 else []


async def on_dead(ctx: AsyncContext, dead: Death) -> None:
    """Write the failure into the row and announce it, however the task died."""
    try:
        payload = Valuation.model_validate(dead.payload)
    except ValidationError:
        return  # it never had a row
    if payload.table_name not in ctx.settings.of(LlmSettings).llm.tables:
        return
    labels = ctx.settings.of(LlmSettings).llm.status_labels
    values = failed(labels, dead.error)
    body = callback.body(payload.table_name, payload.id, dead.task_id, report=None, error=values["failed_info"])

    def write(tx: Transaction) -> None:
        spend.release(dead.task_id)
        rows = Rows(tx.database, payload.table_name)
        row = rows.get(payload.id)
        if row is None or row["status"] == labels.completed or is_written(dead.task_id) or is_written(ctx.id):
            return
        again = UniqueKey.unique_key == f"llm:{_unique(payload)}", UniqueKey.task_id != dead.task_id
        if UniqueKey.get_or_none(*again) is not None:
            return  # submitted again meanwhile: the row belongs to the new task
        rows.update(payload.id, **values)
        if refused := callback.send(tx, row["callback_url"], body):
            rows.update(payload.id, progress_info=f"{values['progress_info']} ({refused})")
        mark_written(ctx.id, ctx.token)

    await _in_table(ctx, payload, write, values)


@task(
    "llm",
    payload=Valuation,
    queue="llm",
    retry=lambda settings: Backoff("1s", max="60s", max_attempts=settings.queue.retry + 1, jitter=1.0),
    timeout=timeout_of,
    on_dead=on_dead,
    unique=_unique,
    limiters=_limiters,
    show=show,
    panel=panel,
)
async def llm(ctx: AsyncContext, payload: Valuation) -> dict[str, Any]:
    """Ask the configured chat provider about a row and write its report into the row."""
    if payload.table_name not in ctx.settings.of(LlmSettings).llm.tables:
        valid = ", ".join(sorted(ctx.settings.of(LlmSettings).llm.tables))
        raise Fail(f"table_name: '{payload.table_name}' is not on the allow-list llm.tables; valid: {valid}")
    try:
        return await _valuate(ctx, payload)
    except RowMissing as missing:  # or locked: an UPDATE would wait for its caller
        longest = ctx.settings.of(LlmSettings).llm.row_timeout
        raise missing.then(clock.now() - ctx.created_at.timestamp(), longest) from None
    except (Lost, Cancelled, DatabaseUnavailable, RedisUnavailable):
        raise  # does not concern the row
    except Exception as error:
        await _count_failure(ctx, payload, error)
        raise


async def _valuate(ctx: AsyncContext, payload: Valuation) -> dict[str, Any]:
    plan = nodes(ctx.settings.of(LlmSettings), payload.table_name)
    start = await _begin(ctx, payload, plan)
    calls = Calls(ctx, payload.table_name, payload.id, start.owner, start.lost)
    asking = Asking(ctx, calls)
    outputs: dict[str, Any] = {}
    answers: list[Answered] = []
    for number, node in enumerate(plan):
        place = Place(number, len(plan), node.name)
        if number > start.done:
            await _show(ctx, payload, _shown(ctx, plan, number))
        ask = partial(asking.ask, place, node, start.row, outputs, payload.model)
        answer = await ctx.step(f"node-{number}", ask, also=partial(calls.settle_step, f"node-{number}"))
        answers.append(answer)
        outputs[node.name] = output(node, answer)
    last = answers[-1]
    if not start.written:
        await _finish(ctx, payload, last["content"], len(plan))
    return {
        "table_name": payload.table_name,
        "id": payload.id,
        "report": last["content"] if len(encode(last["content"])) <= _RESULT_REPORT else None,
        "provider": last["provider"],
        "model": last["model"],
        "usage": last["usage"],
        "finish_reason": last["finish_reason"],
        "cost": [answer["cost"] for answer in answers],
    }


class Start(NamedTuple):
    """The state at the beginning of an attempt: row, owner, finished nodes, whether the row's end is written, and the
    steps with a call of an earlier attempt that may have been charged."""

    row: dict[str, Any]
    owner: str | None
    done: int
    written: bool
    lost: Collection[str]


async def _begin(ctx: AsyncContext, payload: Valuation, plan: Sequence[Node]) -> Start:
    """Read the row and mark it as processing."""
    values: dict[str, Any] = {"status": ctx.settings.of(LlmSettings).llm.status_labels.processing}
    whole = ctx.settings.of(LlmSettings).llm.tables[payload.table_name].pipeline is not None

    def write(tx: Transaction) -> Start:
        rows = Rows(tx.database, payload.table_name)
        row = rows.lock(payload.id, whole=whole)
        done, written = standing(ctx.id)
        lost = spend.release(ctx.id, before=ctx.token)
        if not written:
            values.update(_shown(ctx, plan, done))
            rows.update(payload.id, **values)
        return Start(row, Task.select(Task.owner).where(Task.id == ctx.id).scalar(), done, written, lost)

    return await _in_table(ctx, payload, write, values)


async def _show(ctx: AsyncContext, payload: Valuation, values: dict[str, Any]) -> None:
    await _in_table(ctx, payload, lambda tx: Rows(tx.database, payload.table_name).update(payload.id, **values), values)


def _shown(ctx: AsyncContext, plan: Sequence[Node], done: int) -> dict[str, Any]:
    """The row's columns once `done` nodes are done."""
    again = f" (attempt {_attempt(ctx)})" if ctx.attempt > 1 else ""
    said = "writing the report"
    if done < len(plan):
        said = Place(done, len(plan), plan[done].name).say(f"waiting for the answer{again}")
    return {"progress": f"{done}/{len(plan)}", "current_task_node": done, "progress_info": said}


async def _finish(ctx: AsyncContext, payload: Valuation, report: str, done: int) -> None:
    """Write the report and insert its callback, once."""
    values = completed(ctx.settings.of(LlmSettings).llm.status_labels, report, done)
    body = callback.body(payload.table_name, payload.id, ctx.id, report=report, error=None)

    def write(tx: Transaction) -> None:
        rows = Rows(tx.database, payload.table_name)
        if not rows.update(payload.id, **values):
            raise Fail(
                f"row {payload.id} of {payload.table_name} was deleted while its report was made; "
                "the report stays in this task's steps"
            )
        row = rows.get(payload.id)
        if refused := callback.send(tx, row["callback_url"] if row else None, body):
            rows.update(payload.id, failed_info=refused, progress_info=f"done, but {refused}")
        mark_written(ctx.id, ctx.token)

    await _in_table(ctx, payload, write, values)


async def _in_table(
    ctx: AsyncContext, payload: Valuation, work: Callable[[Transaction], T], values: dict[str, Any]
) -> T:
    """Run a transaction that writes `values`. Raises Fail when the caller's table cannot hold them, and
    DatabaseUnavailable for a fault of sytq's own tables."""
    try:
        return await ctx.transaction(work)
    except peewee.PeeweeException as problem:
        if not of_caller(problem):
            raise of_own_tables(problem, "what sytq records of a valuation") from problem
        reason = explain(problem, payload.table_name, values)
        if reason is None:
            raise
        raise Fail(reason) from None


async def _count_failure(ctx: AsyncContext, payload: Valuation, error: Exception) -> None:
    """Record a failed attempt in the row. Raises Lost; a row that cannot be written is only logged."""
    counts = not isinstance(error, Retry) or error.consumes_attempt
    queues = isinstance(error, Waiting)  # for a permit: nothing has failed
    # Only sytq's own messages are known to contain no prompt.
    info = str(error) if isinstance(error, Retry | Fail) else f"unexpected {type(error).__name__}"
    said = f"attempt {_attempt(ctx)} failed: {info}" if counts else info if queues else f"waiting: {info}"

    def write(tx: Transaction) -> None:
        if is_written(ctx.id):
            return
        rows = Rows(tx.database, payload.table_name)
        values: dict[str, Any] = {"progress_info": said}
        if not queues:
            values["failed_info"] = info
        if counts:
            values["failed_times"] = peewee.fn.COALESCE(rows.columns.failed_times, 0) + 1
        rows.update(payload.id, **values)

    try:
        await ctx.transaction(write)
    except (DatabaseUnavailable, peewee.PeeweeException) as problem:
        ctx.log.warning("a failed attempt was not written to the row", error=type(problem).__name__)


def _attempt(ctx: AsyncContext) -> str:
    return f"{ctx.attempt} of {ctx.max_attempts}" if ctx.max_attempts else str(ctx.attempt)
