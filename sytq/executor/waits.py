"""What an attempt waits for, written once for threads and for the event loop.

A generator yields futures with the seconds to wait for the first of them, and looks itself whether they are done.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")

Futures = tuple[concurrent.futures.Future[Any], ...]
Waits = Generator[tuple[Futures, float | None], None, T]


def sleep(seconds: float) -> tuple[Futures, float | None]:
    return (concurrent.futures.Future(),), seconds


def wait_on_thread(waits: Waits[T]) -> T:
    try:
        while True:
            try:
                futures, seconds = next(waits)
            except StopIteration as end:
                value: T = end.value
                return value
            concurrent.futures.wait(futures, seconds, concurrent.futures.FIRST_COMPLETED)
    finally:
        waits.close()


async def wait_on_loop(waits: Waits[T]) -> T:
    try:
        while True:
            try:
                futures, seconds = next(waits)
            except StopIteration as end:
                value: T = end.value
                return value
            waiting = [asyncio.wrap_future(future) for future in futures]
            for each in waiting:
                each.add_done_callback(retrieve)  # the generator reads the result of its own future
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waits.close()


def retrieve(future: asyncio.Future[Any]) -> None:
    """Read the exception of a future, so that asyncio does not warn of one that nobody has seen."""
    if not future.cancelled():
        future.exception()
