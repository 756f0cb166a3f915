"""Task type `llm`: a row's messages go to a chat provider, the report comes into the row, a callback says so.

Owns the order of things (row, call, row and callback together) and what each failure leads to. The call is
chat.py, the row's SQL is row.py. No transaction is open while the provider thinks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import peewee
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sytq import AsyncContext, Backoff, Cancelled, Death, Fail, Lost, Retry, Transaction, task
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable, InvalidInput, OutboundRefused, RedisUnavailable
from sytq.http import Guard
from sytq.models import UniqueKey
from sytq.plugin import encode

from .answer import ChatError, Kind, Reply
from .chat import Message, complete
from .row import Row, Rows, explain, finished_nodes, is_written, line, mark_written

T = TypeVar("T")

_NODES = 1
_MARGIN = 60.0  # seconds beside the call: the row's transactions and a database that is briefly away
_PAUSE = 30.0  # seconds until a provider that refuses the key or wants money is asked again
_NO_PROVIDER = "no provider is configured: set providers.<name> or deepseek.api_key"
_HOPELESS: set[Kind] = {"rejected", "length", "content_filter", "too_large"}
_PAUSED: set[Kind] = {"unauthorized", "no_credit"}


class Valuation(BaseModel):
    """A row of an allow-listed table to be answered."""

    model_config = ConfigDict(extra="forbid")

    table_name: str = Field(min_length=1, max_length=64)
    id: int = Field(ge=-(2**63), lt=2**63, description="the row's primary key; not 0")
    model: str | None = Field(default=None, min_length=1, max_length=200)

    @field_validator("id")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must not be 0")
        return value


def _retry(settings: Settings) -> Backoff:
    return Backoff(first="1s", factor=2, max="60s", max_attempts=settings.queue.retry + 1, jitter=1.0)


def _unique(payload: Valuation) -> str:
    return f"{payload.table_name}:{payload.id}"


def _timeout(settings: Settings) -> float:
    totals = [provider.total for provider in settings.providers.values()]
    return max(totals, default=300.0) + _MARGIN


async def on_dead(ctx: AsyncContext, dead: Death) -> None:
    """Write the failure into the row and announce it, however the task died."""
    try:
        payload = Valuation.model_validate(dead.payload)
    except ValidationError:
        return  # it never had a row
    if payload.table_name not in ctx.settings.llm.tables:
        return
    labels = ctx.settings.llm.labels
    error = line(dead.error or "the task ended without saying why")
    body = _callback_body(payload, dead.task_id, report=None, error=error)

    def write(tx: Transaction) -> None:
        rows = Rows(tx.database, payload.table_name)
        row = rows.get(payload.id)
        if row is None or row.status == labels.completed or is_written(dead.task_id) or is_written(ctx.id):
            return
        again = UniqueKey.unique_key == f"llm:{_unique(payload)}", UniqueKey.task_id != dead.task_id
        if UniqueKey.get_or_none(*again) is not None:
            return  # it was submitted again meanwhile: the row is the new task's
        said = f"failed: {error}"
        rows.update(payload.id, status=labels.failed, failed_info=error, progress_info=said)
        if refused := _announce(ctx, tx, row.callback_url, body):
            rows.update(payload.id, progress_info=f"{said} ({refused})")
        mark_written(ctx.id, ctx.token)

    await _in_table(ctx, payload, write, {"status": labels.failed})


@task("llm", payload=Valuation, queue="llm", retry=_retry, timeout=_timeout, on_dead=on_dead, unique=_unique)
async def llm(ctx: AsyncContext, payload: Valuation) -> dict[str, Any]:
    """Ask the configured chat provider about a row and write its report into the row."""
    if payload.table_name not in ctx.settings.llm.tables:
        valid = ", ".join(sorted(ctx.settings.llm.tables))
        raise Fail(f"table_name: '{payload.table_name}' is not on the allow-list llm.tables; valid: {valid}")
    try:
        return await _valuate(ctx, payload)
    except (Lost, Cancelled, DatabaseUnavailable, RedisUnavailable):
        raise  # says nothing about the row
    except Exception as error:
        await _count_failure(ctx, payload, error)
        raise


async def _valuate(ctx: AsyncContext, payload: Valuation) -> dict[str, Any]:
    row = await _begin(ctx, payload)

    async def ask() -> Reply:
        return await _ask(ctx, payload, row)

    reply = await ctx.step("node-0", ask)
    await ctx.progress(_NODES, _NODES, "writing the report")
    await _finish(ctx, payload, reply)
    return {
        "table_name": payload.table_name,
        "id": payload.id,
        "model": reply["model"],
        "usage": reply["usage"],
        "finish_reason": reply["finish_reason"],
    }


async def _begin(ctx: AsyncContext, payload: Valuation) -> Row:
    """Read the row and show in it that it is being worked on."""
    values: dict[str, Any] = {"status": ctx.settings.llm.labels.processing}
    again = f" (attempt {_attempt(ctx)})" if ctx.attempt > 1 else ""

    def write(tx: Transaction) -> Row:
        rows = Rows(tx.database, payload.table_name)
        row = rows.get(payload.id)
        if row is None:
            raise Fail(f"{payload.table_name} has no row with id {payload.id}")
        if not is_written(ctx.id):
            done = finished_nodes(ctx.id)
            said = f"waiting for the answer{again}" if done < _NODES else "writing the report"
            values.update(progress=f"{done}/{_NODES}", progress_info=said, current_task_node=done)
            rows.update(payload.id, **values)
        return row

    return await _in_table(ctx, payload, write, values)


async def _ask(ctx: AsyncContext, payload: Valuation, row: Row) -> Reply:
    """Call the provider; its failures become Retry or Fail."""
    if not (row.user_message or "").strip():
        raise Fail(f"row {payload.id} of {payload.table_name} has no user_message: nothing to ask")
    name = ctx.settings.llm_provider
    if name is None:
        raise Retry(after=10, counts=False, reason=_NO_PROVIDER)
    provider = ctx.settings.providers[name]
    await ctx.progress(0, _NODES, f"asking {name}")
    messages: list[Message] = [{"role": "user", "content": row.user_message or ""}]
    if (row.sys_message or "").strip():
        messages.insert(0, {"role": "system", "content": row.sys_message or ""})
    try:
        return await complete(ctx.http, provider, messages, model=payload.model)
    except ChatError as error:
        _give_up_or_wait(ctx, name, error)


def _give_up_or_wait(ctx: AsyncContext, provider: str, error: ChatError) -> NoReturn:
    """The policy on a failed call, as docs/llm.md tells it."""
    reason = f"{provider}: {error} [{error.kind}]"
    if error.kind in _HOPELESS:
        raise Fail(reason) from None
    if error.kind in _PAUSED:
        ctx.log.error("the provider accepts no calls until somebody acts", provider=provider, error=reason)
        raise Retry(after=_PAUSE, counts=False, reason=reason) from None
    ctx.log.warning("the provider gave no answer", provider=provider, status=error.status, error=reason)
    if error.kind == "rate_limited":
        # Spread out, as all who were turned away come back.
        after = error.after if error.after is not None else random.uniform(3, 10)  # noqa: S311
        raise Retry(after=after, counts=False, reason=reason) from None
    raise Retry(after=error.after, reason=reason) from None


async def _finish(ctx: AsyncContext, payload: Valuation, reply: Reply) -> None:
    """Write the report and make its callback, together or not at all."""
    values = {
        "report": reply["content"],
        "status": ctx.settings.llm.labels.completed,
        "progress": f"{_NODES}/{_NODES}",
        "progress_info": "done",
        "current_task_node": _NODES,
        "failed_info": None,
    }
    body = _callback_body(payload, ctx.id, report=reply["content"], error=None)

    def write(tx: Transaction) -> None:
        if is_written(ctx.id):
            return
        rows = Rows(tx.database, payload.table_name)
        if not rows.update(payload.id, **values):
            raise Fail(
                f"row {payload.id} of {payload.table_name} was deleted while its report was made; "
                "the report stays in this task's steps"
            )
        row = rows.get(payload.id)
        if refused := _announce(ctx, tx, row.callback_url if row else None, body):
            rows.update(payload.id, failed_info=refused, progress_info=f"done, but {refused}")
        mark_written(ctx.id, ctx.token)

    await _in_table(ctx, payload, write, values)


async def _in_table(
    ctx: AsyncContext, payload: Valuation, work: Callable[[Transaction], T], values: dict[str, Any]
) -> T:
    """Run a transaction that writes `values`; a table that cannot take them is for the caller to mend."""
    try:
        return await ctx.transaction(work)
    except peewee.PeeweeException as problem:
        reason = explain(problem, payload.table_name, values)
        if reason is None:
            raise
        raise Fail(reason) from None


async def _count_failure(ctx: AsyncContext, payload: Valuation, error: Exception) -> None:
    """Tell the row of a failed attempt. Raises Lost; a row that cannot be told only costs a log line."""
    counts = not isinstance(error, Retry) or error.counts
    # Only our own words are known to hold no prompt.
    info = str(error) if isinstance(error, Retry | Fail) else f"unexpected {type(error).__name__}"
    said = f"attempt {_attempt(ctx)} failed: {info}" if counts else f"waiting: {info}"

    def write(tx: Transaction) -> None:
        if not is_written(ctx.id):
            Rows(tx.database, payload.table_name).count_failure(payload.id, info, said, counts=counts)

    try:
        await ctx.transaction(write)
    except (DatabaseUnavailable, peewee.PeeweeException) as problem:
        ctx.log.warning("the row could not be told of a failed attempt", error=type(problem).__name__)


def _attempt(ctx: AsyncContext) -> str:
    return f"{ctx.attempt} of {ctx.max_attempts}" if ctx.max_attempts else str(ctx.attempt)


def _announce(ctx: AsyncContext, tx: Transaction, url: str | None, body: str) -> str | None:
    """Insert the callback beside the row it announces; return why not, though the row names a URL."""
    url = (url or "").strip()
    if not url:
        return None
    outbound = ctx.settings.outbound
    try:
        # Tells now what delivery would refuse in any case; a name's addresses are judged when it connects.
        Guard(outbound.allow_networks, outbound.allow_hosts).check_url(url)
        headers = {"Content-Type": "application/json"}
        tx.enqueue("callback", {"url": url, "method": "POST", "headers": headers, "body": body}, key="callback")
    except (InvalidInput, OutboundRefused) as error:
        return f"the callback was not sent: {error}"
    return None


def _callback_body(payload: Valuation, task_id: str, *, report: str | None, error: str | None) -> str:
    """The announcement, made once: it is stored as text, so that every delivery sends the same bytes."""
    return encode(
        {
            "task_id": task_id,
            "table_name": payload.table_name,
            "id": payload.id,
            "status": "success" if error is None else "failed",
            "result": report or "",
            "error": error,
            "timestamp": int(time.time()),
        }
    )
