"""The section `webhook` of the configuration: signatures, limits per host, client certificates."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr
from yarl import URL

from sytq.config import Section, Settings, patterns
from sytq.config.fingerprint import fingerprint
from sytq.config.limiters import CircuitBreaker
from sytq.config.sections import DEFAULTS, PositiveDuration
from sytq.config.values import Count, Rate, Secret, UrlPattern, problem

_WHSEC = "whsec_ followed by the base64 of 24 to 64 random bytes"
_STATUS = "a status from 300 to 599"
_MOMENT = "a date or time such as 2026-08-01 or 2026-08-01T12:00:00+02:00, in UTC unless it says another zone"


def _signing_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise problem("not base64 after whsec_", _WHSEC) from None
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise problem("wrong prefix or length", _WHSEC)
    return value


FinalStatus = Annotated[int, Field(ge=300, le=599), _STATUS]
_in_utc = AfterValidator(lambda moment: moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
Moment = Annotated[dt.datetime, _in_utc, _MOMENT]
SigningSecret = Annotated[Secret, AfterValidator(_signing_secret), _WHSEC]


class Matching(Section):
    """A setting for some URLs; of a list of them the first match counts."""

    match: UrlPattern


M = TypeVar("M", bound=Matching)


def first_match(entries: Iterable[M], url: URL) -> M | None:
    return next((entry for entry in entries if patterns.UrlPattern.parse(entry.match).matches(url)), None)


class EndpointSecret(Matching):
    """The secrets that sign requests to matching URLs; `previous` signs too until `until`."""

    secret: SigningSecret
    previous: SigningSecret | None = None
    until: Moment | None = None  # None: as long as `previous` is configured


class ClientCertificate(Matching):
    """The certificate for servers behind matching URLs (PEM files)."""

    cert: Path
    key: Path


class HostBreaker(CircuitBreaker):
    timeout: PositiveDuration = 10.0
    fail_threshold: float = Field(default=0.9, gt=0, le=1)
    min_calls: Count = 20


class HostLimits(Section):
    """Limits for one host, over all workers."""

    running: int = Field(default=100, ge=0)  # 0: unlimited
    adaptive: bool = False
    rate: Rate | None = None
    breaker: HostBreaker = DEFAULTS


class HostException(Matching):
    """Limits for matching hosts; what is not given is as for the others."""

    running: int | None = Field(default=None, ge=0)
    adaptive: bool | None = None
    rate: Rate | None = None
    breaker: bool | None = None


class Webhook(Section):
    secret: SigningSecret | None = None
    secrets: list[EndpointSecret] = Field(default=[])  # `secret` if none matches
    final_statuses: list[FinalStatus] = Field(default=[410])
    keep_body: int = Field(default=1000, ge=0, le=8000)  # characters of a response
    host: HostLimits = DEFAULTS
    hosts: list[HostException] = Field(default=[])
    disable_after: PositiveDuration | None = None
    client_certificates: list[ClientCertificate] = Field(default=[])


class WebhookSettings(Section):
    webhook: Webhook = DEFAULTS

    @functools.cached_property
    def webhook_configuration(self) -> str:
        """The fingerprint of what a receiver gets: signatures and certificates."""
        return fingerprint("webhook", self.webhook, without=frozenset({"host", "hosts", "disable_after", "keep_body"}))


def warnings(settings: Settings) -> Iterator[str]:
    """Settings that are allowed but probably unintended."""
    if settings.of(WebhookSettings).webhook.secret is None:
        yield "webhook.secret is not set; webhooks and callbacks are sent without a signature"
