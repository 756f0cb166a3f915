"""One SMTP session: which recipients the server accepts, refuses for good, or defers.

One deadline covers everything from the DNS lookup to the last reply, so a slow server cannot extend it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiosmtplib

from sytq.tls import client_context, explain

from .message import address

if TYPE_CHECKING:
    from . import Config

_REPLY = 200  # characters kept of a reply
#: Refusals after which a session goes on to the message: Postfix slows down after 10 and hangs up after 20.
_REFUSALS = 10
_CLOSING = 421
#: RFC 5321, 4.5.3.1.10: no more recipients in this session; some servers say 552 for 452.
_TOO_MANY = (452, 552)
#: RFC 4954: what is refused is the login, no sender and no recipient.
_LOGIN = (432, 454, 530, 534, 535, 538)


class Undelivered(Exception):
    """The server accepted the message for nobody, for reasons unrelated to the recipients."""


class NotLoggedIn(Undelivered):
    """The server refuses the user name and password, or demands them."""


async def deliver(config: Config, recipients: list[str], message: bytes, seconds: float) -> dict[str, str]:
    """Return the outcomes of one session, or of a second where the server hangs up in the first.

    An outcome is "sent", or the refusal ("5.." for good, "4.." for now). At least one recipient has one. Who
    has none was not reached, and takes part in a next session. Raises Undelivered.
    """
    assert config.sender
    sender = address(config.sender)
    where = f"{config.host}:{config.server_port}"
    try:
        smtp = await asyncio.to_thread(_client, config, sender, seconds)
    except OSError:
        raise Undelivered("types.email.ca_file cannot be read as certificates") from None
    try:
        async with asyncio.timeout(seconds):
            await smtp.connect()
            await smtp.mail(sender)
            taken, outcomes, closed = await _ask_for(smtp, recipients)
            if taken and not closed:
                try:
                    await smtp.data(message)
                    outcomes |= dict.fromkeys(taken, "sent")
                except aiosmtplib.SMTPResponseException as refusal:
                    outcomes |= dict.fromkeys(taken, _reply(refusal))
    except aiosmtplib.SMTPAuthenticationError as error:
        raise _not_logged_in(where, error) from None
    except aiosmtplib.SMTPResponseException as error:
        if error.code in _LOGIN:
            raise _not_logged_in(where, error) from None
        if error.code >= 500 and isinstance(error, aiosmtplib.SMTPSenderRefused):
            return dict.fromkeys(recipients, _reply(error))
        raise Undelivered(f"{where} refuses the conversation ({error.code})") from None
    except TimeoutError:
        raise Undelivered(f"{where} was not done within {seconds:.0f} s") from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise Undelivered(_what_broke(error, where)) from None
    finally:
        await _leave(smtp)
    if closed and taken:  # whom it had taken, it has forgotten
        outcomes |= await deliver(config, taken, message, seconds)
    return outcomes


async def _ask_for(smtp: aiosmtplib.SMTP, recipients: list[str]) -> tuple[list[str], dict[str, str], bool]:
    """Name the recipients; return those taken, the refusals of others, and whether the server has hung up.

    Raises what ends the session before there are any.
    """
    taken: list[str] = []
    refused: dict[str, str] = {}
    for recipient in recipients:
        try:
            await smtp.rcpt(recipient)
            taken.append(recipient)
        except aiosmtplib.SMTPResponseException as refusal:
            if refusal.code in _LOGIN or (refusal.code == _CLOSING and not taken and not refused):
                raise
            if refusal.code == _CLOSING:
                return taken, refused, True
            if refusal.code in _TOO_MANY and taken:
                break
            refused[recipient] = _reply(refusal)
        except aiosmtplib.SMTPServerDisconnected:
            if not taken and not refused:
                raise
            return taken, refused, True
        if len(refused) == _REFUSALS:
            break
    return taken, refused, False


def _client(config: Config, sender: str, seconds: float) -> aiosmtplib.SMTP:
    tls = client_context(config.ca_file) if config.security != "none" else None
    return aiosmtplib.SMTP(
        hostname=config.host,
        port=config.server_port,
        username=config.username or None,
        password=config.password.get_secret_value() if config.username else None,
        local_hostname=sender.partition("@")[2],
        use_tls=config.security == "tls",
        start_tls=config.security == "starttls",  # not opportunistic: an attacker could strip the offer
        tls_context=tls,
        timeout=seconds,
    )


async def _leave(smtp: aiosmtplib.SMTP) -> None:
    """Send QUIT if that is quick; the outcome is known by now."""
    with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            if smtp.is_connected:
                await smtp.quit()
    smtp.close()


def _reply(refusal: aiosmtplib.SMTPResponseException) -> str:
    """Code and text in one line; an invalid code counts as temporary, and so do too many recipients."""
    code = refusal.code if 400 <= refusal.code <= 599 else 451
    if isinstance(refusal, aiosmtplib.SMTPRecipientRefused) and code in _TOO_MANY:
        code = _TOO_MANY[0]
    return f"{code} {' '.join(refusal.message.split())}"[:_REPLY]


def _not_logged_in(where: str, error: aiosmtplib.SMTPResponseException) -> Undelivered:
    if error.code == 530:
        return NotLoggedIn(f"{where} demands a login ({error.code}): set types.email.username and .password")
    if error.code < 500:
        return Undelivered(f"{where} cannot check the login now ({error.code})")
    return NotLoggedIn(f"{where} does not accept the user name or password ({error.code})")


def _what_broke(error: Exception, where: str) -> str:
    if why := explain(error):
        return f"no TLS with {where}: {why}"
    if isinstance(error, aiosmtplib.SMTPServerDisconnected):
        return f"{where} closed the connection"
    if isinstance(error, aiosmtplib.SMTPConnectError):
        return f"no connection to {where}"
    if "STARTTLS" in str(error):
        return f"{where} offers no STARTTLS, and security is starttls"
    return f"the conversation with {where} failed ({type(error).__name__})"
