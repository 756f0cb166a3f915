"""One SMTP session: which recipients the server accepts, refuses for good, or defers.

One deadline covers everything from the DNS lookup to the last reply, so a slow server cannot extend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import aiosmtplib

from .message import Message

_REPLY = 200  # characters kept of a reply


class Undelivered(Exception):
    """The server accepted the message for nobody, for reasons unrelated to the recipients."""


@dataclass(frozen=True, slots=True)
class Server:
    """Address, security, credentials and sender, and the seconds for the whole session."""

    host: str
    port: int
    security: str
    ca_file: Path | None
    username: str
    password: str = field(repr=False)
    sender: str
    seconds: float


async def deliver(server: Server, recipients: list[str], message: Message) -> dict[str, str]:
    """Return each recipient's outcome: "sent", or the refusal ("5.." for good, "4.." for now). Raises Undelivered."""
    outcomes: dict[str, str] = {}
    where = f"{server.host}:{server.port}"
    try:
        smtp = await asyncio.to_thread(_client, server)
    except OSError:
        raise Undelivered("types.email.ca_file cannot be read as certificates") from None
    try:
        async with asyncio.timeout(server.seconds):
            await smtp.connect()
            await smtp.mail(server.sender)
            for recipient in recipients:
                try:
                    await smtp.rcpt(recipient)
                    outcomes[recipient] = "sent"
                except aiosmtplib.SMTPResponseException as refusal:
                    outcomes[recipient] = _reply(refusal)
            taken = [recipient for recipient, outcome in outcomes.items() if outcome == "sent"]
            if taken:
                try:
                    await smtp.data(message.data)
                except aiosmtplib.SMTPResponseException as refusal:
                    outcomes |= dict.fromkeys(taken, _reply(refusal))
    except aiosmtplib.SMTPAuthenticationError as error:
        raise Undelivered(f"{where} does not accept the user name or password ({error.code})") from None
    except aiosmtplib.SMTPResponseException as error:
        if error.code >= 500 and isinstance(error, aiosmtplib.SMTPSenderRefused):
            return dict.fromkeys(recipients, _reply(error))
        raise Undelivered(f"{where} refuses the conversation ({error.code})") from None
    except TimeoutError:
        raise Undelivered(f"{where} was not done within {server.seconds:.0f} s") from None
    except ssl.SSLCertVerificationError:
        raise Undelivered(f"the TLS certificate of {where} is not valid") from None
    except (aiosmtplib.SMTPException, OSError) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Undelivered(f"the TLS certificate of {where} is not valid") from None
        raise Undelivered(_what_broke(error, where)) from None
    finally:
        await _leave(smtp)
    return outcomes


def _client(server: Server) -> aiosmtplib.SMTP:
    tls = ssl.create_default_context(cafile=server.ca_file) if server.security != "none" else None
    return aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        username=server.username or None,
        password=server.password if server.username else None,
        local_hostname=server.sender.partition("@")[2],
        use_tls=server.security == "tls",
        start_tls=server.security == "starttls",  # not opportunistic: an attacker could strip the offer
        tls_context=tls,
        timeout=server.seconds,
    )


async def _leave(smtp: aiosmtplib.SMTP) -> None:
    """Send QUIT if that is quick; the outcome is known by now."""
    with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            if smtp.is_connected:
                await smtp.quit()
    smtp.close()


def _reply(refusal: aiosmtplib.SMTPResponseException) -> str:
    """Code and text in one line; an invalid code counts as temporary."""
    code = refusal.code if 400 <= refusal.code <= 599 else 451
    return f"{code} {' '.join(refusal.message.split())}"[:_REPLY]


def _what_broke(error: Exception, where: str) -> str:
    if isinstance(error, aiosmtplib.SMTPServerDisconnected):
        return f"{where} closed the connection"
    if isinstance(error, aiosmtplib.SMTPConnectError):
        return f"no connection to {where}"
    if "STARTTLS" in str(error):
        return f"{where} offers no STARTTLS, and security is starttls"
    return f"the conversation with {where} failed ({type(error).__name__})"
