"""One call of a provider: recorded with its budget before it begins, and with its tokens and cost after it.

ask.py decides which calls are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import math
import random
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, TypeVar

import peewee

from sytq import AsyncContext, Counter, Limiter, Permit, Retry, Transaction, Waiting, clock
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.models import Step
from sytq.ledger.refusals import of_own_tables
from sytq.observability.outages import log_failure

from . import prices, spend
from .answer import Answer, ChatError, Reply
from .chat import Request, complete
from .config import LlmSettings
from .policy import POLICIES, Report, spaced
from .spend import Reservation
from .targets import Target, named
from .telling import Place, Telling

_TOKENS = Counter("sytq_llm_tokens_total", "Tokens that providers say they used.", ("provider", "model", "kind"))
_COST = Counter("sytq_llm_cost_total", "What calls cost whose price is known.", ("provider", "model", "currency"))

T = TypeVar("T")

_PAUSE = 1.0  # seconds between two tries to record a call
_LEAST_LEFT = 10.0  # seconds of the time limit: a timeout would use an attempt
_OVER_BUDGET = 300.0  # seconds at most until the task checks the budget again


class Answered(Reply):
    """A checkpointed answer; `cost` is the cost of the answering call, None without a known price."""

    provider: str
    cost: str | None


class Calls:
    """The calls of one attempt; `table` and `row_id` identify the row.

    `paid` says whether one of them had an answer, `tokens` counts what they took; both since ask.py cleared them.
    """

    def __init__(self, ctx: AsyncContext, table: str, row_id: int) -> None:
        self.paid = False
        self.tokens = 0
        self._ctx = ctx
        self._about = (table, row_id)
        self._owner: str | None = None
        self._lost: set[str] = set()  # steps with a call of an earlier attempt whose end is not known
        self._number = 0
        self._begun: tuple[Target, Request, Reservation] | None = None  # recorded with the begin of its step
        self._last: tuple[Reservation, spend.Tokens, int | None] | None = None  # answered and not settled

    def start(self, owner: str | None, lost: Collection[str]) -> None:
        """The task's owner, and the steps with a call of an earlier attempt whose end is not known."""
        self._owner, self._lost = owner, set(lost)

    def begin(self, tx: Transaction, place: Place, target: Target, request: Request) -> None:
        """Record a step's first call in the transaction that begins the step, unless a budget has no room for it; the
        call itself says so then."""
        if self._begun is not None:  # by a try that is repeated: its COMMIT may have succeeded without a word
            spend.withdraw(self._begun[2])
        self._begun = None
        call, most, budgets = self._prepare(place, target, request, clock.utc())
        with contextlib.suppress(spend.BudgetExhausted):
            if not budgets:
                self._begun = target, request, spend.begin(call, most or 0, {})
            elif most is not None:
                with tx.database.atomic():  # leaves no part of a refused reservation
                    self._begun = target, request, spend.begin(call, most, budgets)

    def settle(self, outcome: str = spend.OK) -> None:
        """Record the cost of the last answer; inside a transaction."""
        if self._last is not None:
            call, used, cost = self._last
            spend.settle(call, outcome, used, cost)

    def settle_step(self, step: str) -> None:
        """Record the cost of a step's answer; inside the transaction that records the answer."""
        if self._last is not None and self._last[0].step == step:
            self.settle()
            return
        # An earlier attempt left it in Redis, and its call counts as lost.
        answer = json.loads(Step.get(Step.task_id == self._ctx.id, Step.name == step).value or "null")
        cost = None if answer["cost"] is None else spend.units(Decimal(answer["cost"]))
        spend.recover(self._ctx.id, step, prices.tokens(answer["usage"]), cost)

    async def withdraw(self) -> None:
        """Remove the record of a call that was not begun: no lease or permit for it, or another provider is asked."""
        if self._begun is not None:
            call = self._begun[2]
            await self.record(lambda tx: spend.withdraw(call))
            self._begun = None

    async def record(self, work: Callable[[Transaction], T]) -> T:
        """Run a transaction; between two calls of a question it waits for the database, as the first is paid for."""
        while True:
            try:
                return await self._ctx.transaction(work)
            except (DatabaseUnavailable, peewee.PeeweeException) as problem:
                error = problem
                if isinstance(problem, peewee.PeeweeException):
                    error = of_own_tables(problem, "the record of a call")
                if not self.paid or self._ctx.remaining() < _LEAST_LEFT:
                    raise error from problem
                log_failure(self._ctx.log, "paid call waits for the database", error)
                await asyncio.sleep(_PAUSE)

    async def make(self, permit: Permit, place: Place, target: Target, request: Request) -> Answered:
        """Ask a provider. Raises ChatError, and Retry when a budget is exhausted."""
        now = clock.utc()
        if self._begun is not None and self._begun[:2] == (target, request):
            call, self._begun = self._begun[2], None
        else:
            call = await self._begin(place, target, request, now)
        if place.step in self._lost:
            self._lost.discard(place.step)
            self._ctx.log.warning(
                "call possibly charged twice", step=place.step, provider=target.name, model=target.model
            )
        prompts = [message["content"] for message in request.messages]
        alone = request.extra.get("n", 1) == 1
        answer = Answer(target.model, target.provider.key, prompts, target.provider.finish_reasons, alone)
        try:
            with Telling(self._ctx, place, target, answer):
                await self._verify_lease(call)
                reply = await complete(self._ctx.http, target.provider, request, answer)
        except ChatError as error:
            raise await self._failed(permit, target, request, call, answer, error, now) from None
        self.paid = True
        if answer.unread:
            types = sorted(answer.unread)
            self._ctx.log.warning("parts without text", provider=target.name, model=target.model, types=types)
        used, cost = self._spent(target, answer.usage, now)
        self._report(permit, "ok", answer.usage, used)
        self._last = call, used, cost
        return Answered(**reply, provider=target.name, cost=None if cost is None else spend.money(cost))

    async def _verify_lease(self, call: Reservation) -> None:
        """Return if the attempt holds its task: another attempt would make the same call."""
        while True:
            try:
                return await self._ctx.verify_lease()
            except RedisUnavailable as error:
                if not self.paid or self._ctx.remaining() < _LEAST_LEFT:
                    await self.record(lambda tx: spend.settle(call, spend.UNSENT, spend.Tokens(), 0))
                    raise
                log_failure(self._ctx.log, "paid call waits for Redis", error)

    async def _failed(
        self,
        permit: Permit,
        target: Target,
        request: Request,
        call: Reservation,
        answer: Answer,
        error: ChatError,
        began: dt.datetime,
    ) -> ChatError:
        """Record a failed call; return its error with what is known besides."""
        used, cost = self._spent(target, answer.usage, began)
        kind = error.kind
        self.paid = self.paid or bool(answer.usage) or answer.has_content
        self._report(permit, POLICIES[kind].report, answer.usage, used)
        refused = error.status is not None and error.status >= 300
        if not answer.usage and (refused or kind in ("network", "tls", "proxy")):
            cost = 0  # nothing can have been charged

        def settle(tx: Transaction) -> tuple[int, float]:
            spend.settle(call, kind, used, cost)
            is_counted = POLICIES[kind].then == "wait" or kind in ("other_finish_reason", "no_finish_reason")
            return spend.repetitions(call, kind) if is_counted else (1, 0.0)

        error.times, seconds = await self.record(settle)
        if POLICIES[kind].then == "wait":
            return spaced(error, seconds)
        if kind == "no_finish_reason" and answer.is_marked and error.times > 1:
            error.again = False  # not cut, but never said
        if kind == "length":
            return ChatError(kind, f"the answer was cut at {used.completion or request.most_tokens} tokens")
        if kind == "other_finish_reason":
            setting = f"providers.{target.name}.finish_reasons"
            self._ctx.log.error("finish_reason not accepted", model=target.model, error=str(error), setting=setting)
            return ChatError(kind, f"{error}; {setting} says what words mean", times=error.times)
        return error

    def _spent(self, target: Target, usage: Mapping[str, Any], at: dt.datetime) -> tuple[spend.Tokens, int | None]:
        """The tokens and cost of a call; the cost is None when unknown."""
        used = prices.tokens(usage)
        if not usage:
            return used, None
        _TOKENS.add(used.prompt, target.name, target.model, "prompt")
        _TOKENS.add(used.completion, target.name, target.model, "completion")
        currency = self._ctx.settings.of(LlmSettings).llm.currency
        cost = prices.cost(target.provider, target.model, used, at, currency)
        _COST.add(float((cost or 0) * spend.UNIT), target.name, target.model, currency)
        return used, cost

    def _report(self, permit: Permit, outcome: Report, usage: Mapping[str, Any], used: spend.Tokens) -> None:
        """Report the call's outcome to the limiters, with the tokens of the conversation so far if known."""
        self.tokens += used.prompt + used.completion
        permit.report(outcome, cost=self.tokens if usage else None)

    async def _begin(self, place: Place, target: Target, request: Request, now: dt.datetime) -> Reservation:
        """Record the call and reserve its maximum cost before it begins. Raises Retry when a budget is exhausted."""
        call, most, budgets = self._prepare(place, target, request, now)
        if budgets and most is None:
            raise Retry(
                after=60,
                consumes_attempt=self.paid,
                reason=f"the price of {target.model} is not known, so that the budget of {target.name} cannot be kept:"
                f" set providers.{target.name}.models.<model>.prices",
            )

        await self.withdraw()
        try:
            return await self.record(lambda tx: spend.begin(call, most or 0, budgets))
        except spend.BudgetExhausted as exhausted:
            # An attempt that paid for a cut answer would pay for it again at each look.
            longest = math.inf if self.paid else _OVER_BUDGET
            currency = self._ctx.settings.of(LlmSettings).llm.currency
            waiting = _over_budget(exhausted, currency, most or 0, longest)
            await self._queue_for(exhausted, waiting)
            raise waiting from None

    def _prepare(
        self, place: Place, target: Target, request: Request, now: dt.datetime
    ) -> tuple[spend.SpendRow, int | None, dict[str, int]]:
        """The record of a call, its maximum cost if its price is known, and the budgets that it counts for."""
        settings = self._ctx.settings.of(LlmSettings)
        table, row_id = self._about
        self._number += 1
        call = spend.SpendRow(
            task_id=self._ctx.id,
            token=self._ctx.token,
            number=self._number,
            step=place.step,
            type=self._ctx.type,
            provider=target.name,
            model=target.model,
            owner=self._owner,
            table_name=table,
            row_id=row_id,
            prompt_bytes=request.size,
        )
        limits = {f"provider:{target.name}": target.provider.budget}
        if self._owner:
            limits[f"owner:{self._owner}"] = settings.llm.budget(self._owner)
        budgets = {subject: spend.units(limit) for subject, limit in limits.items() if limit is not None}
        provider, currency = target.provider, settings.llm.currency
        return call, prices.most(provider, target.model, request.size, request.most_tokens, now, currency), budgets

    async def _queue_for(self, exhausted: spend.BudgetExhausted, waiting: Retry) -> None:
        """Have the task wait at a limiter, too, whose pause ends when a worker has other budgets."""
        name = named(f"budget:{exhausted.subject}" + (":paid" if self.paid else ""))
        budgets, seconds = self._ctx.settings.of(LlmSettings).llm_budgets, float(waiting.after or 0)
        await self._ctx.pause_limiter(name, str(waiting), seconds=seconds, alert=False, configuration=budgets)
        try:
            async with self._ctx.acquire(Limiter(name, configuration=budgets)):
                pass
        except Waiting as refusal:
            waiting.permit = refusal.permit


def _over_budget(exhausted: spend.BudgetExhausted, currency: str, needed: int, longest: float) -> Retry:
    """The Retry for a call that does not fit into a budget, in at most `longest` seconds."""
    tomorrow = dt.datetime.combine(dt.date.fromisoformat(exhausted.day), dt.time(), dt.UTC) + dt.timedelta(days=1)
    left = (tomorrow - clock.utc()).total_seconds()
    kind, _, name = exhausted.subject.partition(":")
    return Retry(
        after=min(max(left, 0) + random.uniform(0, 10), longest),  # noqa: S311
        consumes_attempt=False,
        reason=f"the budget of {kind} {name} for {exhausted.day} (UTC) has no room: {spend.money(exhausted.used)} of"
        f" {spend.money(exhausted.limit)} {currency} are spent or reserved, this call may cost {spend.money(needed)}",
    )
