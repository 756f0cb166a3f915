"""A real mail server on loopback that keeps accepted mail and answers as a test sets it."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
import threading
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope

from tests.servers import free_port

PEM = Path(__file__).parent / "localhost.pem"


class MailServer:
    """`replies` maps a recipient (or MAIL, DATA) to the answers instead of 250, each list in turn."""

    def __init__(self, *, tls: str = "none", user: str = "", password: str = "") -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.replies: dict[str, list[str]] = {}
        self.hangs_up_after: int | None = None  # so many refused recipients in one session, as Postfix does
        self.most: int | None = None  # recipients of one message
        self.says_beyond = "452 4.5.3 too many recipients"
        self.hold: threading.Event | None = None  # if present, DATA is not answered before the event is set
        self.reached = threading.Event()
        self._credentials = (user.encode(), password.encode())
        options: dict[str, Any] = {}
        if tls != "none":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(PEM)
            options = {"ssl_context": context} if tls == "tls" else {"tls_context": context, "require_starttls": True}
        if user:
            options |= {
                "authenticator": self._authenticate,
                "auth_required": True,
                "auth_require_tls": tls == "starttls",
            }
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)

    def start(self) -> MailServer:
        self._controller.start()
        return self

    def stop(self) -> None:
        if self.hold:
            self.hold.set()
        self._controller.stop(no_assert=True)

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == self._credentials, handled=False)

    def _reply(self, key: str) -> str | None:
        waiting = self.replies.get(key)
        return waiting.pop(0) if waiting else None

    async def handle_MAIL(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        envelope.mail_from = address
        return self._reply("MAIL") or "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if self.most is not None and len(envelope.rcpt_tos) == self.most:
            return self.says_beyond
        if refusal := self._reply(address):
            session.refused = getattr(session, "refused", 0) + 1
            if self.hangs_up_after is not None and session.refused > self.hangs_up_after:
                return "421 4.7.0 too many errors"
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        if refusal := self._reply("DATA"):
            return refusal
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.recipients.append(list(envelope.rcpt_tos))
        self.reached.set()
        if self.hold:
            await asyncio.get_running_loop().run_in_executor(None, self.hold.wait, 90)
        return "250 taken"
