"""The metric of outbound calls: duration and status. Must not know a call's URL, only whether it is a caller's."""

from __future__ import annotations

import asyncio
import time

from sytq.observability.metrics import Histogram

_SECONDS = Histogram(
    "sytq_outbound_seconds",
    "HTTP calls out, by whose URL it was (guarded: a caller's, trusted: the configuration's) and the answer.",
    ("url", "answer"),
)


class Measured:
    """`with` it around one call; the block passes on the status once known."""

    def __init__(self, trusted: bool) -> None:
        self._url = "trusted" if trusted else "guarded"
        self._answer = "refused"

    def answered(self, status: int) -> None:
        self._answer = f"{status // 100}xx"

    def __enter__(self) -> Measured:
        self._since = time.monotonic()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._answer = _without_answer(error) or self._answer
        _SECONDS.observe(time.monotonic() - self._since, self._url, self._answer)


def _without_answer(error: BaseException) -> str:
    import aiohttp

    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientError):
        return "network"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else ""
