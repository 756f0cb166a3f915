"""TLS of every connection out: what is verified, and what a failure means to a person."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

# As curl and Go: a private CA needs no key identifiers (Python 3.13 wants them), and an intermediate CA may be what is
# trusted (Python before 3.13 wants its root).
STRICTER = [ssl.VERIFY_X509_STRICT]
LOOSER = [ssl.VERIFY_X509_PARTIAL_CHAIN]

_ADD = "add that CA to this machine's store, or name its file in SSL_CERT_FILE"
_UNKNOWN = f"its certificate is of a CA that this machine does not know, or comes without its intermediate: {_ADD}"
#: OpenSSL's X509_V_ERR_* of a verification that failed.
_CERTIFICATE = {
    2: _UNKNOWN,
    9: "its certificate is not valid yet, or this machine's clock is wrong",
    10: "its certificate has expired, or this machine's clock is wrong",
    18: f"its certificate is self-signed: {_ADD}",
    19: f"its certificate is of a private CA: {_ADD}",
    20: _UNKNOWN,
    21: _UNKNOWN,
    62: "its certificate is for another name",
    64: "its certificate is for another address",
}
#: Parts of OpenSSL's reasons for everything else, the more exact first.
_HANDSHAKE = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate",
    "UNRECOGNIZED_NAME": "it does not know the host name",
    "PROTOCOL_VERSION": "it takes no version of TLS that this machine does",
    "UNSUPPORTED_PROTOCOL": "it offers only versions of TLS that are too old",
    "HANDSHAKE_FAILURE": "it takes no cipher that this machine offers, or wants a client certificate",
    "DH_KEY_TOO_SMALL": "its key is too short",
    "WRONG_VERSION_NUMBER": "it speaks no TLS: correct the scheme or the port",
    "HTTP_REQUEST": "it speaks no TLS: correct the scheme or the port",
    "RECORD_LAYER_FAILURE": "it speaks no TLS: correct the scheme or the port",
    "PACKET_LENGTH_TOO_LONG": "it speaks no TLS: correct the scheme or the port",
}
_WRAPPED = ("certificate_error", "os_error", "original_exception")  # aiohttp's and PyMySQL's


def client_context(ca_file: Path | str | None = None) -> ssl.SSLContext:
    """The context of a connection out, which verifies as curl and Go do, on every version of Python."""
    context = ssl.create_default_context(cafile=ca_file)
    for flag in STRICTER:
        context.verify_flags &= ~flag
    for flag in LOOSER:
        context.verify_flags |= flag
    return context


def explain(error: BaseException) -> str | None:
    """Why TLS with a server failed, where `error` is or wraps an error of TLS: "its certificate has expired"."""
    for one in _chain(error):  # aiohttp's own are errors of TLS in name only
        if code := getattr(one, "verify_code", None):
            return _CERTIFICATE.get(code) or f"its certificate is refused: {getattr(one, 'verify_message', '')}"
        if isinstance(one, ssl.SSLError) and (reason := getattr(one, "reason", None)):
            known = (words for part, words in _HANDSHAKE.items() if part in reason)
            return next(known, f"TLS failed ({reason})")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it wraps: libraries keep that in different places."""
    found, seen = [error], set[int]()
    while found:
        one = found.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        found += [one.__cause__, one.__context__, *one.args]
        found += [getattr(one, name, None) for name in _WRAPPED]
