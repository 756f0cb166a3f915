"""The Idempotency-Key of a request: a repeated request gets the response of the first. A form has it in a field, which
its page puts into `req.context.idempotency_key`.

Knows the requests that run in this process; finished ones are in sytq.ledger.idempotency.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable

import falcon.asgi

from sytq.api.problems import InUse
from sytq.errors import InvalidInput
from sytq.ledger.idempotency import Claim, Submitted

#: Seconds that a request waits for an earlier one with its key before it is refused.
_TIMEOUT = 2.0
#: No spaces at the ends: MySQL ignores trailing spaces in comparisons.
_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


class IdempotencyGuard:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], tuple[Claim, asyncio.Future[Submitted | None]]] = {}

    async def run(self, wanted: Claim, submit: Callable[[], Awaitable[Submitted]]) -> Submitted:
        """Call `submit` for the request with this claim, unless a request with the same key was answered before.

        Raises HTTPUnprocessableEntity for another request's key, InUse while the first request still runs.
        """
        place = wanted.owner, wanted.key
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TIMEOUT
        while place in self._running:
            running, ended = self._running[place]
            _check(wanted, running.fingerprint)
            await asyncio.wait([ended], timeout=max(0.0, deadline - loop.time()))
            if not ended.done():
                raise InUse
            if (first := ended.result()) is not None:
                return Submitted(first.tasks, repeats=wanted.fingerprint)
        ended = loop.create_future()
        self._running[place] = wanted, ended
        submitted = None
        try:
            submitted = await submit()
        finally:
            del self._running[place]
            # When the first request failed or was refused, the waiting ones run themselves.
            good = submitted is not None and submitted.repeats in (None, wanted.fingerprint)
            ended.set_result(submitted if good else None)
        if submitted.repeats is not None:
            _check(wanted, submitted.repeats)
        return submitted


def claim_of(req: falcon.asgi.Request) -> Claim | None:
    """The claim of a request that has an Idempotency-Key. Raises InvalidInput for an invalid one."""
    given = getattr(req.context, "idempotency_key", None) or req.get_header("Idempotency-Key")
    if given is None:
        return None
    key = given[1:-1] if len(given) > 2 and given[0] == given[-1] == '"' else given  # the draft's form is quoted
    if not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key", "must be 1 to 255 printable ASCII characters, no space first or last")
    head = f"{req.method} {req.path}?{req.query_string}\n".encode("utf-8", "surrogatepass")
    fingerprint = hashlib.sha256(head + req.scope["sytq.body"]).hexdigest()
    return Claim(req.context.caller.owner or "", key, fingerprint)


def _check(wanted: Claim, fingerprint: str) -> None:
    if wanted.fingerprint != fingerprint:
        raise falcon.HTTPUnprocessableEntity(
            description="Idempotency-Key: this key was used for another request (another path or body); use a new key"
        )
