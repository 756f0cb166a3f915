"""The sections of the configuration: their settings, defaults and validation within a section.

Defaults are written only here; docs/configuration.md and etc/sytq.yaml are tested against them. Validation between
sections is in settings.py, the sections of the replaced systems in compat.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from sytq.config import urls
from sytq.config.compat import DEFAULT_GROUP, DEFAULT_TYPE
from sytq.config.values import (
    AllowedHost,
    BasePath,
    Count,
    DatabaseUrl,
    HeaderName,
    HeaderValue,
    Host,
    HostPattern,
    Level,
    LogFormat,
    Name,
    Network,
    Port,
    Prefix,
    ProxyUrl,
    Rate,
    Realm,
    RedisUrl,
    Secret,
    SentryDsn,
    Size,
    StreamName,
    Text,
    WebUrl,
    Weight,
    problem,
)
from sytq.durations import VALID_DURATION, Duration
from sytq.schedule import Schedule
from sytq.states import WEIGHTS, Priority

PositiveDuration = Annotated[Duration, Field(gt=0), f"more than 0: {VALID_DURATION}"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    #: In a model of sections: setting -> the older setting that gives its value while it is not set.
    older: ClassVar[Mapping[str, str]] = {}


class Switched(Section):
    """A section with a switch: beside `enabled: false` the values of its settings may be any, as in the Go services."""

    enabled: bool

    @model_validator(mode="wrap")
    @classmethod
    def _only_while_enabled(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            misspelt = any(one["type"] == "extra_forbidden" for one in error.errors())
            if misspelt or not isinstance(value, dict) or "enabled" not in value:
                raise
            switched = handler({"enabled": value["enabled"]})
            if switched.enabled:
                raise
            return switched


#: A section that is not given has its defaults: validation makes it from nothing, where an instance as the default
#: would need a validator of its own.
DEFAULTS: Any = Field(default={}, validate_default=True)


class Api(Section):
    host: Host = "127.0.0.1"
    port: Port = 8080
    workers: Count = 2
    max_body: Size = 1 << 20
    graceful_timeout: Duration = 30.0
    trusted_proxies: list[Network] = []


class Dashboard(Section):
    enabled: bool = True
    read_only: bool = False
    base_path: BasePath = ""
    session_max_age: PositiveDuration = 12 * 3600.0
    session_idle: PositiveDuration = 3600.0


class Redis(Section):
    url: RedisUrl | None = Field(default=None, repr=False)
    username: Text = ""
    password: Secret = SecretStr("")
    prefix: Prefix = "sytq"

    @model_validator(mode="after")
    def _one_login(self) -> Redis:
        if self.url is not None and urls.has_login(self.url) and (self.username or self.password.get_secret_value()):
            raise problem("the login stands in redis.url already", "one of the two", key="password", value="***")
        return self


class Database(Section):
    url: DatabaseUrl | None = Field(default=None, repr=False)
    pool: Count = 20
    timeout: PositiveDuration = 5.0


class QueueLimits(Section):
    limit: Count | None = None
    rate: Rate | None = None
    max_waiting: Count | None = None


class RetryPolicy(Section):
    """Overrides a type's own policy; None keeps the type's value."""

    first: PositiveDuration | None = None
    factor: Annotated[float, Field(ge=1, le=100)] | None = None
    max: PositiveDuration | None = None
    max_attempts: Count | None = None
    max_age: PositiveDuration | None = None
    jitter: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> RetryPolicy:
        if self.first is not None and self.max is not None and self.max < self.first:
            raise problem("shorter than first", "at least as long as first", key="max", value=self.max)
        return self


class TaskType(Section):
    model_config = ConfigDict(extra="allow")

    retry: RetryPolicy = DEFAULTS
    timeout: PositiveDuration | None = None
    queue: Name | None = None
    priority: Priority | None = None

    @property
    def extra(self) -> dict[str, Any]:
        """The type's own keys, which its plugin reads."""
        return dict(self.model_extra or {})


class ScheduleEntry(Section):
    """A scheduled task: a new schedule, or the replacement of the schedule that a type of this name declares."""

    type: Name | None = None  # None: the schedule's own name
    every: PositiveDuration | None = None
    cron: str | None = None
    timezone: str = "UTC"
    payload: dict[str, Any] = {}
    missed: Literal["once", "skip"] = "once"
    enabled: bool = True

    @model_validator(mode="after")
    def _makes_sense(self) -> ScheduleEntry:
        if self.enabled:
            try:
                self.schedule()
            except ValueError as error:
                reason, _, valid = str(error).partition("; valid: ")
                raise problem(reason, valid or "every: 10m, or cron: '0 3 * * *'") from None
        return self

    def schedule(self) -> Schedule:
        return Schedule(**self.model_dump(include={"every", "cron", "timezone", "payload", "missed"}))


class Stream(Section):
    """An external stream; each of its messages becomes a task."""

    stream: StreamName
    group: StreamName = DEFAULT_GROUP
    type: Name = DEFAULT_TYPE
    payload: dict[str, Any] | None = None  # a template with the message's fields; None: the message itself
    max_retries: int = Field(default=3, ge=0)
    retry_delay: PositiveDuration | None = None  # None: the type's value
    dead_letter: StreamName | None = None
    claim_idle: PositiveDuration = 300.0

    @model_validator(mode="after")
    def _two_streams(self) -> Stream:
        if self.dead_letter == self.stream:
            raise problem("the stream itself", "another stream", key="dead_letter", value=self.stream)
        return self

    @property
    def dead_letters(self) -> str:
        """The stream for messages that cannot become tasks."""
        return self.dead_letter or f"{self.stream}:dlq"


class Worker(Section):
    processes: Count = 2
    threads: Count = 8
    async_concurrency: Count = 1000
    heartbeat: PositiveDuration = 1.0
    liveness: PositiveDuration = 4.0
    max_crashes: Count = 3
    shutdown_timeout: Duration = 150.0
    queues: list[Name] = []
    host: Host = "127.0.0.1"
    port: Port | None = None
    priority_weights: dict[str, Weight] = WEIGHTS
    retry_interval: PositiveDuration = 10.0
    request_timeout: PositiveDuration = 30.0
    job_timeout: PositiveDuration = 300.0
    retry_attempts: int = Field(default=3, ge=0)
    retry_delay: Duration = 1.0

    @property
    def redis_timeout(self) -> float:
        """The seconds that a call of Redis may hold up a task: at most a third of the lease."""
        return min(5.0, self.liveness / 3)

    @field_validator("priority_weights")
    @classmethod
    def _somebody_comes_first(cls, weights: dict[str, int]) -> dict[str, int]:
        for priority in weights.keys() - WEIGHTS.keys():
            raise problem(f"'{priority}' is no priority", ", ".join(WEIGHTS))
        if not any(weights.values()):
            raise problem("no priority would ever come first", "at least one weight above 0")
        return weights

    @model_validator(mode="after")
    def _survives_one_lost_heartbeat(self) -> Worker:
        if self.liveness < 3 * self.heartbeat:
            raise problem(
                "shorter than three heartbeats, so that late beats would count as a death",
                "at least three times worker.heartbeat",
                key="liveness",
                value=f"{self.liveness:g}s",
            )
        return self


class Plugins(Section):
    paths: list[Path] = []


class Outbound(Section):
    allow_networks: list[Network] = Field(default=[])
    allow_hosts: list[AllowedHost] = Field(default=[])
    schemes: list[Literal["http", "https"]] = Field(default=["http", "https"], min_length=1)
    ports: list[Port] = Field(default=[])  # empty: any
    only_hosts: list[HostPattern] = Field(default=[])  # empty: any
    deny_hosts: list[HostPattern] = Field(default=[])
    deny_networks: list[Network] = Field(default=[])
    proxy: ProxyUrl | None = Field(default=None, repr=False)


class Auth(Switched):
    enabled: bool = False
    realm: Realm = "sytq"
    users: dict[Text, Secret] = {}

    @model_validator(mode="after")
    def _names_for_basic_auth(self) -> Auth:
        for name, password in self.users.items():
            if not name or ":" in name:
                raise problem("basic auth cannot carry this name", "a name without a colon", key="users", value=name)
            if not password.get_secret_value():
                raise problem("empty", "a password", key=f"users.{name}", value="***")
        return self


class Sentry(Section):
    dsn: SentryDsn | None = None
    environment: Text | None = None
    traces_sample_rate: float = Field(default=0.0, ge=0, le=1)


class Otel(Section):
    endpoint: WebUrl | None = None
    headers: dict[HeaderName, HeaderValue] = {}


#: Which lines the log has of tasks: of each submission and attempt; of ends and failed attempts; of failures; none.
TaskLines = Literal["attempts", "finished", "failed", "none"]


class Logger(Section):
    level: Level = "info"
    format: LogFormat | None = None
    development: bool | None = None
    fields: list[Name] = []
    tasks: TaskLines = "finished"
