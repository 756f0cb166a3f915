"""Task type `llm`: asks a chat provider about a row, writes the report into the row and sends a callback.

attempt.py has what an attempt does; here is what the type declares, and how its ends are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
from sytq.ledger.models import UniqueKey
from sytq.ledger.refusals import of_own_tables
from sytq.runtime import Runtime
from sytq.tasktypes.payload import encode

from . import callback, days, providers_page, spend, spend_page
from .attempt import Attempt, number_of
from .config import LlmSettings, warnings
from .explanations import EXPLANATIONS
from .obstacles import watch
from .pickup import pick_up
from .pipeline import nodes
from .row import (
    RowMissing,
    Rows,
    ValuationRecord,
    explain,
    failed,
    of_caller,
)
from .standing import WRITTEN, is_written
from .targets import chain
from .task_page import panel, show
from .time_limit import timeout_of


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
        if row is None or row["status"] == labels.completed or is_written(dead.task_id):
            return
        again = UniqueKey.unique_key == f"llm:{_unique(payload)}", UniqueKey.task_id != dead.task_id
        if UniqueKey.get_or_none(*again) is not None:
            return  # submitted again meanwhile: the row belongs to the new task
        if not tx.mark(WRITTEN):
            return
        rows.update(payload.id, **values)
        if refused := callback.send(tx, row["callback_url"], body):
            rows.update(payload.id, progress_info=f"{values['progress_info']} ({refused})")

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
        answers = await Attempt(ctx, payload).run()
    except RowMissing as missing:  # or locked: an UPDATE would wait for its caller
        longest = ctx.settings.of(LlmSettings).llm.row_timeout
        raise missing.then(clock.now() - ctx.created_at.timestamp(), longest) from None
    except (Lost, Cancelled, DatabaseUnavailable, RedisUnavailable):
        raise  # does not concern the row
    except Exception as error:
        await _count_failure(ctx, payload, error)
        raise
    last = answers[-1]
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


async def _in_table(
    ctx: AsyncContext, payload: Valuation, work: Callable[[Transaction], None], values: dict[str, Any]
) -> None:
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
    said = f"attempt {number_of(ctx)} failed: {info}" if counts else info if queues else f"waiting: {info}"

    def write(tx: Transaction) -> None:
        if is_written(ctx.id):
            return
        rows = Rows(tx.database, payload.table_name)
        values: dict[str, Any] = {"progress_info": said}
        if not queues:
            values["failed_info"] = info
        rows.update(payload.id, failed=counts, **values)

    try:
        await ctx.transaction(write)
    except (DatabaseUnavailable, peewee.PeeweeException) as problem:
        ctx.log.warning("a failed attempt was not written to the row", error=type(problem).__name__)
