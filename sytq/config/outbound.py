"""The sections about calls that leave the service: where they may lead, and how webhooks are made.

Owns the settings of `outbound` and `webhook`. Must read no file and no environment.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sytq.config.sections import PositiveDuration, Section
from sytq.config.values import (
    AllowedHost,
    Count,
    HostPattern,
    Network,
    Port,
    ProxyUrl,
    Rate,
    SigningSecret,
    UrlPattern,
)

_STATUS = "a status from 300 to 599"
_MOMENT = "a date or time such as 2026-08-01 or 2026-08-01T12:00:00+02:00, in UTC unless it says another zone"


def _aware(moment: dt.datetime) -> dt.datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


FinalStatus = Annotated[int, Field(ge=300, le=599), _STATUS]
Moment = Annotated[dt.datetime, AfterValidator(_aware), _MOMENT]


class Outbound(Section):
    allow_networks: list[Network] = Field(default=[])
    allow_hosts: list[AllowedHost] = Field(default=[])
    schemes: list[Literal["http", "https"]] = Field(default=["http", "https"], min_length=1)
    ports: list[Port] = Field(default=[])  # empty: any
    only_hosts: list[HostPattern] = Field(default=[])  # empty: any
    deny_hosts: list[HostPattern] = Field(default=[])
    deny_networks: list[Network] = Field(default=[])
    proxy: ProxyUrl | None = Field(default=None, repr=False)


class EndpointSecret(Section):
    """What signs requests to the URLs that match; `previous` signs too until then."""

    match: UrlPattern
    secret: SigningSecret
    previous: SigningSecret | None = None
    until: Moment | None = None  # None: as long as `previous` stands here


class ClientCertificate(Section):
    """What we show to the servers behind the URLs that match (PEM files)."""

    match: UrlPattern
    cert: Path
    key: Path


class HostBreaker(Section):
    enabled: bool = True
    max_requests: Count = 2
    interval: PositiveDuration = 60.0
    timeout: PositiveDuration = 10.0
    fail_threshold: float = Field(default=0.9, gt=0, le=1)
    min_calls: Count = 20


class HostLimits(Section):
    """What one host bears of us, over all workers."""

    running: int = Field(default=100, ge=0)  # 0: any number
    adaptive: bool = False
    rate: Rate | None = None
    breaker: HostBreaker = HostBreaker()


class HostException(Section):
    """The same for the hosts that match; what is not given is as for the others."""

    match: UrlPattern
    running: int | None = Field(default=None, ge=0)
    adaptive: bool | None = None
    rate: Rate | None = None
    breaker: bool | None = None


class Webhook(Section):
    secret: SigningSecret | None = None
    secrets: list[EndpointSecret] = Field(default=[])  # the first that matches; `secret` where none does
    final_statuses: list[FinalStatus] = Field(default=[410])
    keep_body: int = Field(default=1000, ge=0, le=8000)  # characters of an answer
    host: HostLimits = HostLimits()
    hosts: list[HostException] = Field(default=[])  # the first that matches
    disable_after: PositiveDuration | None = None
    client_certificates: list[ClientCertificate] = Field(default=[])  # the first that matches
