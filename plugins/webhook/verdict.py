"""Translates a response, or its absence, into a verdict. Messages contain no body, header or URL query."""

from __future__ import annotations

import errno
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

from sytq import Fail, Retry, clock
from sytq.tls import explain

if TYPE_CHECKING:
    import aiohttp

    from sytq.http.client import Answer

_RETRY_AFTER_BOUNDS = (1.0, 24 * 3600.0)  # seconds; a receiver can cause neither a busy loop nor an endless wait
_OS_ERRORS = {
    errno.ECONNREFUSED: ("refused", "connection refused by"),
    errno.ECONNRESET: ("reset", "connection reset by"),
    errno.EPIPE: ("reset", "connection reset by"),
    errno.ETIMEDOUT: ("unreachable", "no connection to"),
    errno.EHOSTUNREACH: ("unreachable", "no route to"),
    errno.ENETUNREACH: ("unreachable", "no route to"),
}


def bearing(answer: Answer) -> Literal["ok", "overloaded", "failed"]:
    """What a response says of the host. A host that refuses a request is alive."""
    if answer.status_code in (429, 503):
        return "overloaded"
    return "failed" if answer.status_code >= 500 else "ok"


def judge(answer: Answer, host: str, final: Collection[int]) -> None:
    """Return for a 2xx; raise Fail for a status in `final`, and Retry for every other, redirects included."""
    if answer.ok:
        return
    reason = f"HTTP {answer.status_code} from {host}"
    if answer.status_code in final:
        raise Fail(f"{reason}: it is gone for good" if answer.status_code == 410 else f"{reason}, which is final")
    if 300 <= answer.status_code < 400:
        reason += ": redirects are not followed"
    raise Retry(after=retry_after(answer.headers.get("Retry-After"), clock.utc()), reason=reason)


def retry_after(value: str | None, now: datetime) -> float | None:
    """The delay in seconds of a Retry-After header (seconds or an HTTP date), within bounds; else None."""
    if value is None:
        return None
    try:
        value = value.strip()
        if value.isascii() and value.isdecimal():
            seconds = float(value)
        else:
            moment = parsedate_to_datetime(value)
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    shortest, longest = _RETRY_AFTER_BOUNDS
    return min(max(seconds, shortest), longest)


def what_broke(error: aiohttp.ClientError | TimeoutError, host: str) -> tuple[str, str]:
    """A class to search for, and one line for a person; the library's own text may quote the URL or the response."""

    import aiohttp

    from sytq.http.sessions import NotHttp, UnknownHost

    if isinstance(error, TimeoutError):
        return "timeout", f"{host} {error}" if str(error) else f"{host} timed out"
    if isinstance(error, UnknownHost | aiohttp.ClientConnectorDNSError):
        return "dns", f"{host} cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "certificate", f"the TLS certificate of {host} is not valid: {explain(error)}"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls", f"TLS with {host} failed: {explain(error)}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return "proxy", f"the outbound proxy answered {error.status} for {host}"
    if isinstance(error, OSError):
        kind, words = _OS_ERRORS.get(error.errno or 0, ("connection", "connection failed to"))
        return kind, f"{words} {host}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed", f"{host} closed the connection without an answer"
    if isinstance(error, NotHttp):
        return "protocol", f"{host} {error}"
    return "protocol", f"{host} gave no valid HTTP answer"
