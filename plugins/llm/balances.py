"""What is left on the accounts of providers that tell it: read in the background when an administrator looks.

No task and no call waits for it, and a page shows what was read last.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
import time
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, NamedTuple

from sytq.ledger.values import utcnow

from .config import Provider

if TYPE_CHECKING:
    from sytq.http.client import Answer

TIMEOUT = 5.0
_MAX_CURRENCIES = 10
_MAX_BYTES = 1 << 20
#: Seconds for which a balance is shown before it is read again; after a failure, seconds until the next try.
_KEPT, _AGAIN = 600.0, 60.0


class Balance(NamedTuple):
    """`amounts` are (amount, currency), an account has several; `read_at` is naive UTC."""

    is_available: bool
    amounts: tuple[tuple[Decimal, str], ...]
    read_at: dt.datetime

    def __str__(self) -> str:
        return " and ".join(f"{amount} {currency}" for amount, currency in self.amounts)


def parsed(body: bytes) -> Balance:
    """A balance in DeepSeek's form. Raises ValueError."""
    try:
        said = json.loads(body)
        listed = said["balance_infos"][:_MAX_CURRENCIES]
        infos = [(Decimal(str(info["total_balance"])), str(info["currency"])[:8]) for info in listed]
        available = said.get("is_available")
        any_left = any(amount > 0 for amount, _ in infos)
    except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise ValueError("the balance has an unknown form") from error
    return Balance(available if isinstance(available, bool) else any_left, tuple(infos), utcnow())


class Balances:
    """The balances that this process has read."""

    def __init__(self) -> None:
        #: URL -> the balance that was read last, why a later reading failed, and when the next one is due.
        self._known: dict[str, tuple[Balance | None, str, float]] = {}
        self._lock = threading.Lock()

    def look(self, provider: Provider) -> tuple[Balance | None, str]:
        """The balance that was read last, and why a later reading failed; starts a reading where it is too old."""
        url = provider.balance_url
        if url is None:
            return None, ""
        with self._lock:
            shown, failed, due = self._known.get(url, (None, "", 0.0))
            if is_due := time.monotonic() >= due:
                self._known[url] = shown, failed, time.monotonic() + _AGAIN  # and no second reading beside it
        if is_due:
            threading.Thread(target=self._read, args=(url, provider), name="balance", daemon=True).start()
        return shown, failed

    def _read(self, url: str, provider: Provider) -> None:
        found, failed = None, ""
        try:
            found = asyncio.run(_ask(url, provider))
        except Exception as error:  # whatever the client or the provider makes of it
            failed = str(error) if isinstance(error, _Refused) else f"does not answer ({type(error).__name__})"
        with self._lock:
            shown, _, due = self._known[url]
            self._known[url] = found or shown, failed, due if failed else time.monotonic() + _KEPT


class _Refused(Exception):
    """The provider answers with an error; the message names its status."""


async def get(url: str, provider: Provider) -> Answer:
    """What the provider answers to a GET that costs nothing, on the way of its calls. Raises what the client raises."""
    from sytq.http.client import Client
    from sytq.http.guard import Guard

    client = Client(Guard())
    try:
        return await client.get(
            url,
            headers=provider.authorization,
            timeout=TIMEOUT,
            max_bytes=_MAX_BYTES,
            trusted=True,
            proxy=provider.proxy,
        )
    finally:
        await client.close()


async def _ask(url: str, provider: Provider) -> Balance | None:
    """The balance; None where there is no such endpoint, or its answer has another form."""
    answer = await get(url, provider)
    if answer.status_code in (404, 405):
        return None
    if not answer.ok:
        raise _Refused(f"answers HTTP {answer.status_code}")
    try:
        return parsed(answer.content)
    except ValueError:
        return None


BALANCES = Balances()
