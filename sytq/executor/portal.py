"""The portal between the thread of a plain function and the event loop: the function waits for coroutines through it.

A coroutine may have its thread call functions meanwhile. An interruption reaches the innermost of both: a coroutine is
cancelled, a function interrupted as Dramatiq does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from dramatiq.threading import Interrupt, raise_thread_exception

T = TypeVar("T")


class Portal:
    """Of one function. Other threads that it starts may wait through it, too; no interruption reaches these."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._thread: int | None = None  # that runs the function; None before and after
        self._visit: _Visit[Any] | None = None  # what that thread waits for
        self._interruption: type[Interrupt] | None = None  # at most one

    # -- on the thread

    def run(self, function: Callable[[], None]) -> None:
        """Call the function; interruptions are raised in it, and not once this has returned."""
        own = threading.get_ident()
        try:
            with self._lock:
                self._thread = own
                if self._interruption is not None:
                    raise self._interruption
            function()
        finally:
            with self._lock:
                if self._interruption is not None:  # raised or not
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(own), None)
                self._thread = None

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop; return its value or raise."""
        visit: _Visit[T] = _Visit(self._loop, coroutine)
        own = threading.get_ident() == self._thread
        try:
            if own:
                with self._lock:
                    self._visit = visit
            self._loop.call_soon_threadsafe(visit.start)
            self._serve(visit, own)
        except Interrupt:  # between two of the functions that the coroutine asked for
            self._loop.call_soon_threadsafe(visit.abandon)
            self._serve(visit, False)
            raise
        finally:
            if own:
                with self._lock:
                    self._visit = None
        if visit.cancelled and self._interruption is not None:
            raise self._interruption
        if visit.error is not None:
            raise visit.error
        return visit.value

    @contextlib.contextmanager
    def entered(self, manager: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An async context manager as a plain one."""
        with contextlib.ExitStack() as stack:

            def leave(*error: Any) -> bool:
                async def leaving() -> bool:
                    return bool(await manager.__aexit__(*error))

                return self.wait(leaving())

            async def entering() -> T:
                return await manager.__aenter__()

            value = self.wait(entering())
            stack.push(leave)
            yield value

    def _serve(self, visit: _Visit[Any], interruptible: bool) -> None:
        while (asked := visit.asked.get()) is not None:
            if asked.dropped or not self._go_to(asked, interruptible):
                continue
            try:
                asked.value = asked.function()
            except BaseException as error:
                asked.error = error
            if interruptible and asked.interruptible:
                with self._lock:
                    self._visit = visit
            self._loop.call_soon_threadsafe(asked.end)

    def _go_to(self, asked: _Asked[Any], interruptible: bool) -> bool:
        """Let interruptions reach the function rather than the coroutine. False where that is cancelled already."""
        if not (interruptible and asked.interruptible):
            return True
        with self._lock:
            if self._visit is not None and self._visit.cancelled:
                return False
            self._visit = None
        return True

    # -- on the event loop

    async def call(self, function: Callable[[], T], *, interruptible: bool = False) -> T:
        """Call a function on the thread that waits for the running coroutine."""
        asked = _Asked(function, interruptible, self._loop.create_future())
        _visit.get().asked.put(asked)
        try:
            await asked.ended
        except asyncio.CancelledError:
            asked.dropped = True
            raise
        if asked.error is not None:
            raise asked.error
        return asked.value

    def awaitable(self, function: Callable[[], T]) -> Callable[[], Awaitable[T]]:
        """Return the function for a coroutine to await; its thread calls it, and may be interrupted in it."""
        return lambda: self.call(function, interruptible=True)

    @property
    def interrupted(self) -> bool:
        return self._interruption is not None

    def interrupt(self, exception: type[Interrupt]) -> None:
        """Raise an exception in the function, once: where it runs, or where it waits for a coroutine."""
        with self._lock:
            if self._interruption is not None:
                return
            self._interruption = exception
            if self._visit is not None:
                self._visit.cancel()
            elif self._thread is not None:
                raise_thread_exception(self._thread, exception)  # type: ignore[no-untyped-call]


class _Visit(Generic[T]):
    """A coroutine that a thread waits for, and what it asks of that thread; None at its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.asked: queue.SimpleQueue[_Asked[Any] | None] = queue.SimpleQueue()
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.value: T
        self.error: BaseException | None = None
        self._loop = loop
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._context.run(_visit.set, self)

    def start(self) -> None:
        self.task = self._loop.create_task(self._run(), context=self._context)
        self.task.add_done_callback(self._end)
        if self.cancelled:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            self.value = await self._coroutine
        except BaseException as error:  # a task that raises SystemExit would end the event loop
            self.error = error

    def _end(self, _: object) -> None:
        self._coroutine.close()  # it may not have begun
        self.asked.put(None)

    def cancel(self) -> None:
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()

    def abandon(self) -> None:
        if self.task is None:  # never started
            self.start()
        self.cancel()


class _Asked(Generic[T]):
    """A function that a coroutine asks its thread to call."""

    def __init__(self, function: Callable[[], T], interruptible: bool, ended: asyncio.Future[None]) -> None:
        self.function = function
        self.interruptible = interruptible
        self.ended = ended
        self.dropped = False
        self.value: T
        self.error: BaseException | None = None

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


_visit: contextvars.ContextVar[_Visit[Any]] = contextvars.ContextVar("visit")
