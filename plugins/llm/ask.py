"""Asks a node's question: of each provider of its chain, until one gives a valid answer.

policy.py decides what a failure leads to; nothing here writes the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sytq import AsyncContext, Fail, Permit, Retry, Transaction, Waiting

from .answer import ChatError
from .balance import pause
from .call import Answered, Calls
from .chat import Message, Request
from .config import LlmSettings
from .node import Node
from .pipeline import check, correction, messages
from .policy import POLICIES, Failure, conclude, consequence, judge
from .targets import Target, chain
from .telling import Place

_NO_PROVIDER = "no provider is configured: set providers.<name> or deepseek.api_key"
_BYTES = 3  # of a prompt per token, roughly


class Asking:
    """The questions of one attempt, asked by its `calls`."""

    def __init__(self, ctx: AsyncContext, calls: Calls, model: str | None) -> None:
        self._ctx = ctx
        self._calls = calls
        self._model = model  # the task's own
        self._question: Sequence[Message] | None = None  # of the node that has begun
        self._targets: list[Target] = []  # likewise

    def begin(
        self, tx: Transaction, place: Place, node: Node, row: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> None:
        """Record the node's first call in the transaction that begins its step."""
        self._question, self._targets = None, chain(self._ctx.settings.of(LlmSettings), node, self._model)
        try:
            self._question = messages(node, row, outputs)
        except Fail:
            return  # `ask` says so: the row has to say first that it is worked on
        for target in self._targets[:1]:
            self._calls.begin(tx, place, target, _request(target, self._question))

    async def ask(self, place: Place, node: Node, row: Mapping[str, Any], outputs: Mapping[str, Any]) -> Answered:
        """The answer to the question of the node that has begun. Raises Retry or Fail, according to the policy."""
        question = self._question or messages(node, row, outputs)
        failures: list[Failure] = []
        targets = self._targets
        paused: Target | None = None
        self._calls.paid = False
        for target in targets:
            try:
                return await self._converse(place, node, question, target, alone=target is targets[-1])
            except Waiting as waiting:
                # Only an unavailable provider is skipped; a busy provider is waited for, as that is soon over.
                if not waiting.unavailable or (target is targets[-1] and not failures):
                    raise
                failures.append(Failure(str(waiting), "wait", float(waiting.after or 0)))
            except ChatError as error:
                failures.append(judge(target, error))
                if failures[-1].then == "pause":
                    paused = paused or target
                if not POLICIES[error.kind].fallback or (error.kind == "other_finish_reason" and error.times > 1):
                    break
        if paused is not None and not self._calls.paid:  # else each pause would end with the same paid answer
            async with self._ctx.acquire(*paused.limiters):  # the task runs again as soon as the limiter is resumed
                pass
        raise (
            conclude(failures, self._calls.paid)
            if failures
            else Retry(after=10, consumes_attempt=False, reason=_NO_PROVIDER)
        )

    async def _converse(
        self, place: Place, node: Node, question: Sequence[Message], target: Target, alone: bool
    ) -> Answered:
        """Ask one provider, and again with the error while the answer does not match the node's schema.

        One permit covers all calls: if a later call had to wait for one, the task would pay for the first call again.
        """
        asked = _request(target, question)
        cost = asked.size // _BYTES + asked.most_tokens
        async with self._ctx.acquire(*target.limiters, cost=cost) as permit:
            self._calls.tokens = 0
            try:
                for left in range(node.schema_retries, -1, -1):
                    answer = await self._answered(permit, place, target, asked, alone)
                    try:
                        check(node, answer)
                        return answer
                    except ChatError as error:
                        await self._calls.record(lambda tx: self._calls.settle("schema"))
                        if not left:
                            raise
                        said: Message = {"role": "assistant", "content": answer["content"]}
                        again: Message = {"role": "user", "content": correction(error)}
                        asked = replace(asked, messages=[*question, said, again])
            except ChatError as error:
                if consequence(target, error) == "pause":
                    await pause(self._ctx, target, error)
                raise
        raise AssertionError("unreachable")

    async def _answered(self, permit: Permit, place: Place, target: Target, request: Request, alone: bool) -> Answered:
        """Ask, and once more where that can help: with more room for a cut answer, and after a `finish_reason` that
        nobody knows if the target is `alone`, without another one to ask."""
        try:
            return await self._calls.make(permit, place, target, request)
        except ChatError as error:
            if error.kind == "length":
                return await self._with_more_room(permit, place, target, request, error)
            if error.kind != "other_finish_reason" or error.times > 1 or not alone:
                raise
        return await self._calls.make(permit, place, target, request)

    async def _with_more_room(
        self, permit: Permit, place: Place, target: Target, request: Request, cut: ChatError
    ) -> Answered:
        """Ask for twice as much as the answer that was cut, or for as much as the provider says that it gives."""
        more = request.roomier()
        if more is None:
            raise ChatError("length", f"{cut}, by a limit of the provider: the request sets none")
        while True:
            try:
                return await self._calls.make(permit, place, target, more)
            except ChatError as error:
                if error.kind == "length":
                    raise ChatError("length", f"{error} when asked for more; raise max_tokens of the model") from None
                if error.status not in (400, 422):  # the same request with smaller limits was accepted
                    raise
                self._ctx.log.warning("more room refused", provider=target.name, model=target.model, error=str(error))
                numbers = [int(number) for number in re.findall(r"\b\d{1,9}\b", str(error).partition(":")[2])]
                given = max((n for n in numbers if request.most_tokens < n < more.most_tokens), default=None)
                if given is None or (more := request.roomier(given)) is None:
                    raise ChatError(
                        "length", f"{cut}, the most that the provider gives: ask for a shorter one"
                    ) from None


def _request(target: Target, question: Sequence[Message]) -> Request:
    return Request(target.model, question, target.max_tokens, target.extra)
