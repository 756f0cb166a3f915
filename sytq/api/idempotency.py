"""The Idempotency-Key of a request: the same request again gets the first one's answer.

Owns the header, what makes two requests the same, and those that run in this process; what outlives them is in
sytq.ledger.idempotency. Must not know what is submitted.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable

import falcon
import falcon.asgi

from sytq.api.problems import InUse
from sytq.api.submission_batcher import Accepted
from sytq.errors import InvalidInput
from sytq.ledger.idempotency import Claim

#: Seconds that a request waits for an earlier one with its key before it is told that this one still runs.
_PATIENCE = 2.0
#: No space at the ends: where MySQL compares texts, one at the end does not count.
_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


class IdempotencyGuard:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], tuple[Claim, asyncio.Future[Accepted | None]]] = {}

    async def run(self, req: falcon.asgi.Request, accept: Callable[[Claim | None], Awaitable[Accepted]]) -> Accepted:
        """Call `accept` with the request's claim, unless a request with the same key got its answer already.

        Raises HTTPUnprocessableEntity for a key that stands for another request, InUse for one that runs.
        """
        wanted = _claim(req)
        if wanted is None:
            return await accept(None)
        place = wanted.owner, wanted.key
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while place in self._running:
            running, ended = self._running[place]
            _check(wanted, running.fingerprint)
            await asyncio.wait([ended], timeout=max(0.0, deadline - loop.time()))
            if not ended.done():
                raise InUse
            if (first := ended.result()) is not None:
                return _told(req, Accepted(first.ids, first.existing, True, wanted.fingerprint))
        ended = loop.create_future()
        self._running[place] = wanted, ended
        accepted = None
        try:
            accepted = await accept(wanted)
        finally:
            del self._running[place]
            # Whoever waits for one that failed, or was refused, tries it itself.
            good = accepted is not None and accepted.fingerprint in (None, wanted.fingerprint)
            ended.set_result(accepted if good else None)
        if accepted.fingerprint is not None:
            _check(wanted, accepted.fingerprint)
        return _told(req, accepted)


def _claim(req: falcon.asgi.Request) -> Claim | None:
    given = req.get_header("Idempotency-Key")
    if given is None:
        return None
    key = given[1:-1] if len(given) > 2 and given[0] == given[-1] == '"' else given  # the draft's form is quoted
    if not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key", "must be 1 to 255 printable ASCII characters, no space first or last")
    head = f"{req.method} {req.path}?{req.query_string}\n".encode("utf-8", "surrogatepass")
    fingerprint = hashlib.sha256(head + req.scope["sytq.body"]).hexdigest()
    return Claim(req.context.owner or "", key, fingerprint)


def _check(wanted: Claim, fingerprint: str) -> None:
    if wanted.fingerprint != fingerprint:
        raise falcon.HTTPUnprocessableEntity(
            description="Idempotency-Key: this key was used for another request (another path or body); take a new one"
        )


def _told(req: falcon.asgi.Request, accepted: Accepted) -> Accepted:
    if accepted.repeats:
        req.context.headers["Idempotent-Replayed"] = "true"
    return accepted
