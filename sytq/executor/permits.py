"""The turnstile: the passages of one event loop go through their gates together.

Owns the natural batching: while one batch is at Redis the next one gathers, so busy workers share round trips and an
idle one waits for nobody. Must not decide who may pass (the scripts do).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sytq.broker.limiter import Limiters, Permit

#: Bounds one script call.
_MOST = 50

_Asked = list[tuple[Permit, asyncio.Future[Exception | None]]]


class PermitBatcher:
    """`Limiters` for the tasks of one event loop. Whoever has asked to leave need not wait for it."""

    def __init__(self, gates: Limiters) -> None:
        self._gates = gates
        self._entering: _Asked = []
        self._leaving: _Asked = []
        self._turning: asyncio.Task[None] | None = None
        # Its own: the others may all be waiting for a database. One, so that a passage leaves after it has entered.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turnstile")

    async def enter(self, passage: Permit) -> None:
        """As `Limiters.enter`."""
        await self._ask(passage, entering=True)

    async def leave(self, passage: Permit) -> None:
        """As `Limiters.leave`; happens also when the caller is cancelled meanwhile."""
        await self._ask(passage, entering=False)

    async def _ask(self, passage: Permit, *, entering: bool) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Exception | None] = loop.create_future()
        (self._entering if entering else self._leaving).append((passage, answer))
        if self._turning is None:
            self._turning = loop.create_task(self._turn())
        if refusal := await answer:
            raise refusal

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._entering or self._leaving:
                leaving, self._leaving[:_MOST] = self._leaving[:_MOST], []
                # Who was cancelled before its turn never enters. The oldest first, as in the line.
                self._entering = [one for one in self._entering if not one[1].done()]
                self._entering.sort(key=lambda one: one[0].created)
                entering, self._entering[:_MOST] = self._entering[:_MOST], []
                batch = [passage for passage, _ in leaving], [passage for passage, _ in entering]
                refusals = await loop.run_in_executor(self._thread, self._pass, *batch)
                for (_, answer), refusal in zip(leaving + entering, refusals, strict=True):
                    if not answer.done():
                        answer.set_result(refusal)
        finally:
            self._turning = None

    def _pass(self, leaving: list[Permit], entering: list[Permit]) -> list[Exception | None]:
        """First who leaves: that makes room."""
        try:
            self._gates.leave_all(leaving)
            return [None] * len(leaving) + self._gates.enter_all(entering)
        except Exception as error:  # a fault of ours: let everyone of the batch see it
            return [error] * (len(leaving) + len(entering))
