"""The portal between the thread of a plain function and the event loop: the function waits for coroutines through it.

A coroutine may have that thread do blocking work meanwhile. An interruption cancels the coroutine that the function
waits for; else it is raised in the function, as Dramatiq does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from dramatiq.threading import Interrupt, raise_thread_exception

T = TypeVar("T")


def without_stop_iteration(function: Callable[..., T], *args: Any) -> T:
    """Call a function for a future of asyncio, which would never be done with a StopIteration."""
    try:
        return function(*args)
    except StopIteration as error:
        raise RuntimeError("StopIteration was raised") from error


class Portal:
    """Of one function. Other threads that it starts may wait through it, too; no interruption reaches these."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._thread: int | None = None  # that runs the function; None before and after
        self._visit: _Visit[Any] | None = None  # what that thread waits for
        self._interruption: type[Interrupt] | None = None  # at most one
        self._entered: list[contextlib.AbstractAsyncContextManager[Any]] = []

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
        own, outer = threading.get_ident() == self._thread, None
        try:
            if own:
                with self._lock:
                    outer, self._visit = self._visit, visit
            self._loop.call_soon_threadsafe(visit.start)
            visit.serve()
        except Interrupt:  # raised while the thread was not known to wait yet
            self._loop.call_soon_threadsafe(visit.abandon)
            visit.serve()
            raise
        finally:
            if own:
                with self._lock:
                    self._visit = outer
        if visit.cancelled and self._interruption is not None:
            raise self._interruption
        if visit.error is not None:
            raise visit.error
        return visit.value

    @contextlib.contextmanager
    def entered(self, manager: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An async context manager as a plain one."""

        async def enter() -> T:
            value = await manager.__aenter__()
            self._entered.append(manager)
            return value

        async def leave(*error: Any) -> bool:
            self._entered.remove(manager)
            return bool(await manager.__aexit__(*error))

        with contextlib.ExitStack() as stack:
            value = self.wait(enter())
            stack.push(lambda *error: self.wait(leave(*error)))
            yield value

    # -- on the event loop

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function, which is not interrupted, on the thread that waits for the running coroutine."""
        asked: Future[T] = Future()
        _visit.get().asked.put((asked, function))
        return await asyncio.wrap_future(asked)

    async def close(self) -> None:
        """Leave the context managers that an interruption has kept the function from leaving."""
        while self._entered:
            await self._entered.pop().__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)

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
        self.asked: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.value: T
        self.error: BaseException | None = None
        self._loop = loop
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._context.run(_visit.set, self)

    def serve(self) -> None:
        """Call what the coroutine asks for, until it has ended."""
        while (asked := self.asked.get()) is not None:
            future, function = asked
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(without_stop_iteration(function))
            except BaseException as error:
                future.set_exception(error)

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


_visit: contextvars.ContextVar[_Visit[Any]] = contextvars.ContextVar("visit")
