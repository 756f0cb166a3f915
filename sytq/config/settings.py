"""Settings: all sections together, the validation between them, and derived values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationInfo, field_validator

from sytq.config import sections, urls
from sytq.config.compat.sections import OldSections, Redis
from sytq.config.limiters import LimiterName, LimiterSettings, check_limiters, limits_of_queues, of_kind
from sytq.config.masking import MASK, is_secret_key, mask_text
from sytq.config.problems import nearest
from sytq.config.sections import DEFAULTS, Section
from sytq.config.values import Name, problem
from sytq.errors import ConfigError
from sytq.plugins import Installed

S = TypeVar("S", bound=BaseModel)


class Settings(OldSections):
    """The core's sections; with plugins `load` returns a subclass that has their sections too."""

    # The order matters: a validator sees the sections above its own.
    api: sections.Api = DEFAULTS
    dashboard: sections.Dashboard = DEFAULTS
    redis: Redis = DEFAULTS
    database: sections.Database = DEFAULTS
    queues: dict[Name, sections.QueueLimits] = Field(default_factory=dict)
    limiters: dict[LimiterName, LimiterSettings] = Field(default_factory=dict)
    types: dict[Name, sections.TaskType] = Field(default_factory=dict)
    schedules: dict[Name, sections.ScheduleEntry] = Field(default_factory=dict)
    streams: list[sections.Stream] = Field(default_factory=list, validate_default=True)
    worker: sections.Worker = DEFAULTS
    plugins: sections.Plugins = DEFAULTS
    outbound: sections.Outbound = DEFAULTS
    auth: sections.Auth = DEFAULTS
    logger: sections.Logger = DEFAULTS
    sentry: sections.Sentry = DEFAULTS
    otel: sections.Otel = DEFAULTS

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _installed: Installed = PrivateAttr(default_factory=Installed)

    @field_validator("streams")
    @classmethod
    def _each_once(cls, streams: list[sections.Stream]) -> list[sections.Stream]:
        names = [entry.stream for entry in streams]
        for name in names:
            if names.count(name) > 1:
                raise problem(f"'{name}' is there twice", "each stream once")
        return streams

    @field_validator("limiters")
    @classmethod
    def _of_their_kinds(cls, limiters: dict[str, LimiterSettings], info: ValidationInfo) -> dict[str, LimiterSettings]:
        check_limiters(limiters, info.data.get("queues", {}))
        return limiters

    @property
    def origins(self) -> dict[str, str]:
        """Dotted key -> "file /path", "env NAME" or "secret file /path"; other keys have their defaults."""
        return self._origins

    @property
    def installed(self) -> Installed:
        """The plugins found when these settings were loaded."""
        return self._installed

    def of(self, model: type[S]) -> S:
        """These settings as a plugin's model. Raises ConfigError without the plugin."""
        if not isinstance(self, model):
            raise ConfigError(f"the plugin with the sections {', '.join(model.model_fields)} is not installed")
        return self

    @property
    def database_url(self) -> str:
        """The URL of the ledger, its password included."""
        if self.database.url:
            return self.database.url
        if self.mysql.dsn:
            return urls.database_url_of_go_dsn(self.mysql.dsn)
        return "sqlite:///sytq.db"

    @property
    def queue_limits(self) -> dict[str, sections.QueueLimits]:
        """The limits of queues, of whichever section."""
        return limits_of_queues(self.limiters, self.queues)

    @property
    def limited_types(self) -> dict[str, LimiterSettings]:
        """The settings of the task types that are limited."""
        return of_kind("type", self.limiters)

    @property
    def stream_keys(self) -> list[str]:
        """The external streams and their dead letters."""
        return [key for stream in self.streams for key in (stream.stream, stream.dead_letters)]

    @property
    def retention(self) -> float:
        """Seconds for which an ended task can be looked up."""
        return self.queue.retention

    @property
    def worker_processes(self) -> int:
        """The processes of `sytq worker`: as many of `worker.processes` as share `queue.concurrency` evenly."""
        bound = self.queue.bound
        counts = range(1, self.worker.processes + 1)
        return self.worker.processes if bound is None else max(count for count in counts if bound % count == 0)

    @property
    def max_running(self) -> int | None:
        """The tasks that each of these processes may run at once; None: as many as it has slots."""
        return None if self.queue.bound is None else self.queue.bound // self.worker_processes

    @property
    def log_format(self) -> str:
        """json or console: as set, else JSON in production and where `logger.development` is false."""
        if self.logger.format:
            return self.logger.format
        return "json" if self.app.mode == "production" or self.logger.development is False else "console"

    def describe(self) -> Iterator[tuple[str, str, str]]:
        """Yield (dotted key, value with secrets masked, origin) of every setting, section by section."""
        for key, value in leaves(self.model_dump(mode="json")):
            yield key, _shown(key, value), self._origin(key)

    def _origin(self, key: str) -> str:
        if origin := nearest(key.split("."), self._origins):
            return origin
        older = next(
            (model.older[key] for model in type(self).__mro__ if issubclass(model, Section) and key in model.older),
            None,
        )
        if older and older in self._origins:
            return f"{self._origins[older]} ({older})"
        return "default"


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of what is no mapping, or an empty one."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value


def _shown(key: str, value: object) -> str:
    if value is None:
        return ""
    if is_secret_key(key) and value != "":
        return MASK
    return mask_text(value) if isinstance(value, str) else mask_text(json.dumps(value, ensure_ascii=False))
