"""The payload of a webhook task: the request and its retry schedule, with their bounds.

Independent of the configuration; the guard decides whether the URL may be reached.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sytq import Backoff, clock
from sytq.durations import Duration
from sytq.errors import InvalidInput, OutboundRefused
from sytq.http.guard import parse_url
from sytq.http.headers import check_headers
from sytq.tasktypes.payload import encode

_Pause = Annotated[Duration, Field(ge=1, le=86_400)]


class Schedule(BaseModel):
    """A retry schedule for this task; the task type's schedule has what is left out."""

    model_config = ConfigDict(extra="forbid")

    first: _Pause | None = Field(default=None, description="Delay before the second attempt, 1s to 24h")
    factor: float | None = Field(
        default=None, ge=1, le=10, description="Growth of the delay from one attempt to the next"
    )
    max: _Pause | None = Field(default=None, description="Longest delay, 1s to 24h")
    jitter: float | None = Field(default=None, ge=0, le=1, description="Random share of each delay")
    max_attempts: int | None = Field(default=None, ge=1, le=10_000)
    max_age: Annotated[Duration, Field(ge=1, le=7 * 86_400)] | None = Field(
        default=None, description="Oldest age of the task at its last attempt, 1s to 7 days"
    )


class Webhook(BaseModel):
    """An HTTP request. The service sets Host, Content-Length and hop-by-hop headers itself."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2048, description="An http or https URL without user name and password")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict, max_length=100)
    body: str = Field(default="", max_length=16 << 20)
    retry: Schedule | None = None
    ordering_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Tasks with the same key run one after the other, oldest first",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        if isinstance(values, dict) and None in values.values():
            return {k: v for k, v in values.items() if v is not None}
        return values

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        try:
            parse_url(value)
        except OutboundRefused as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return (value.upper() or "POST") if isinstance(value, str) else value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        try:
            check_headers(value)
        except InvalidInput as error:
            raise ValueError(error.message) from None
        return value

    @field_validator("body")
    @classmethod
    def _is_utf8(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair cannot be sent as UTF-8") from None
        return value


def test_body() -> str:
    """The body of a test delivery."""
    return encode({"type": "test", "timestamp": int(clock.now()), "message": "a test delivery from sytq"})


def own_policy(payload: Webhook, policy: Backoff) -> Backoff:
    """The type's policy with this task's overrides."""
    if payload.retry is None:
        return policy
    asked = payload.retry.model_dump(exclude_none=True)
    # A requested delay is not cut to the type's maximum.
    asked.setdefault("max", max(asked.get("first", 0.0), float(policy.max)))
    return dataclasses.replace(policy, **asked)
