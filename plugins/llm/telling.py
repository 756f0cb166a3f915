"""What a task's live state tells of the call that it waits for: which question it is, and how the answer grows."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from sytq import AsyncContext, Cancelled, Lost
from sytq.errors import TimedOut

from .answer import Answer
from .targets import Target

_TELLS = 100.0  # progress reports per second, over all calls of this process


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a question in its pipeline, for progress reports."""

    number: int
    of: int
    name: str

    @property
    def step(self) -> str:
        """The name of its checkpoint."""
        return f"node-{self.number}"

    def say(self, what: str) -> str:
        return what if self.of == 1 else f"node {self.number + 1} of {self.of} ({self.name}): {what}"


class Telling:
    """Shows the growth of an answer in the task's live state; `with` it around the call.

    A timer, as a task for each call would take more memory than what the call asks.
    """

    _running = 0  # calls of this process

    def __init__(self, ctx: AsyncContext, place: Place, target: Target, answer: Answer) -> None:
        self._ctx, self._place, self._target, self._answer = ctx, place, target, answer
        self._shown: int | None = None
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        Telling._running += 1
        self._wait()

    def __exit__(self, *_: object) -> None:
        Telling._running -= 1
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(1.0, Telling._running / _TELLS), self._look)

    def _look(self) -> None:
        if self._answer.chunks == self._shown:
            self._wait()
        else:
            self._task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        self._shown = shown = self._answer.chunks
        said = f"{self._target.name} answers, {shown} tokens so far" if shown else f"asking {self._target.name}"
        with contextlib.suppress(Lost, Cancelled, TimedOut):  # the call is under way: what follows it says so
            await self._ctx.progress(self._place.number, self._place.of, self._place.say(said))
            self._task = None
            self._wait()
