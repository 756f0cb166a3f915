"""Settings: all sections together, what holds between them, and the values that others should read.

Owns the decisions that need two sections (which database, which port, which provider). Must read no file
and no environment; `load` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from sytq.config import llm as valuations
from sytq.config import outbound as outgoing
from sytq.config import sections, urls
from sytq.config.masking import MASK, is_secret_key, mask_text
from sytq.config.sections import Section
from sytq.config.values import Name, problem

#: Settings that take their value from an older one while they are not given themselves.
INHERITED = MappingProxyType(
    {
        "api.port": "app.port",
        "worker.threads": "queue.concurrency",
        "streams": "app.enable_redis_queue",
        "database.pool": "mysql.max_open_conns",
        "providers.deepseek.api_key": "deepseek.api_key",
        "providers.deepseek.base_url": "deepseek.base_url",
        "providers.deepseek.model": "deepseek.model",
        "providers.deepseek.max_tokens": "deepseek.max_tokens",
        "providers.deepseek.first_content": "deepseek.timeout",
        "providers.deepseek.silence": "deepseek.timeout",
        "providers.deepseek.total": "deepseek.timeout",
        **{
            f"providers.deepseek.circuit_breaker.{name}": f"deepseek.circuit_breaker.{name}"
            for name in valuations.CircuitBreaker.model_fields
        },
    }
)


class Settings(Section):
    # The order matters: a validator sees the sections above its own.
    app: sections.App = sections.App()
    api: sections.Api = Field(default=sections.Api(), validate_default=True)
    redis: sections.Redis = sections.Redis()
    mysql: sections.Mysql = sections.Mysql()
    database: sections.Database = Field(default=sections.Database(), validate_default=True)
    deepseek: valuations.Deepseek = valuations.Deepseek()
    providers: dict[Name, valuations.Provider] = Field(default_factory=dict, validate_default=True)
    llm: valuations.Llm = valuations.Llm()
    queue: sections.Queue = sections.Queue()
    queues: dict[Name, sections.QueueLimits] = Field(default_factory=dict)
    types: dict[Name, sections.TaskType] = Field(default_factory=dict)
    schedules: dict[Name, sections.ScheduleEntry] = Field(default_factory=dict)
    streams: list[sections.Stream] = Field(default_factory=list, validate_default=True)
    worker: sections.Worker = Field(default=sections.Worker(), validate_default=True)
    plugins: sections.Plugins = sections.Plugins()
    outbound: outgoing.Outbound = outgoing.Outbound()
    webhook: outgoing.Webhook = outgoing.Webhook()
    auth: sections.Auth = sections.Auth()
    logger: sections.Logger = sections.Logger()
    sentry: sections.Sentry = sections.Sentry()
    otel: sections.Otel = sections.Otel()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("api")
    @classmethod
    def _one_port(cls, api: sections.Api, info: ValidationInfo) -> sections.Api:
        app = info.data.get("app")
        if app is None or app.port is None:
            return api
        if "port" in api.model_fields_set and api.port != app.port:
            raise problem(f"app.port says {app.port}", "one of the two", key="port", value=api.port)
        return api.model_copy(update={"port": app.port})

    @field_validator("database")
    @classmethod
    def _one_database(cls, database: sections.Database, info: ValidationInfo) -> sections.Database:
        mysql = info.data.get("mysql")
        if mysql is None:
            return database
        if database.url and mysql.dsn and database.url != urls.database_url_of_go_dsn(mysql.dsn):
            raise problem("mysql.dsn names another database", "one of the two", key="url", value=database.url)
        if mysql.max_open_conns and "pool" not in database.model_fields_set:
            return database.model_copy(update={"pool": mysql.max_open_conns})
        return database

    @field_validator("providers", mode="before")
    @classmethod
    def _deepseek_is_a_provider(cls, providers: object, info: ValidationInfo) -> object:
        block = info.data.get("deepseek") or valuations.Deepseek()
        if not isinstance(providers, dict):
            return providers
        own = providers.get("deepseek", {})
        given = bool(block.api_key and block.api_key.get_secret_value()) or "base_url" in block.model_fields_set
        if not isinstance(own, dict) or not (given or "deepseek" in providers):
            return providers
        base: dict[str, Any] = block.model_dump(
            include={"api_key", "base_url", "model", "max_tokens", "circuit_breaker"}
        )
        root = str(own.get("base_url", block.base_url)).rstrip("/").removesuffix("/v1")
        base["balance_url"] = f"{root}/user/balance"
        if "timeout" in block.model_fields_set:
            base |= {
                "first_content": block.timeout,
                "silence": block.timeout,
                "total": max(300.0, block.timeout),
            }
        return {"deepseek": base | own} | {name: value for name, value in providers.items() if name != "deepseek"}

    @field_validator("llm")
    @classmethod
    def _known_names(cls, llm: valuations.Llm, info: ValidationInfo) -> valuations.Llm:
        providers = info.data.get("providers")
        if providers is None:
            return llm
        valid = ", ".join(providers) or "none is configured, see providers"
        named = {"provider": llm.provider} | {f"fallback.{n}": name for n, name in enumerate(llm.fallback)}
        for title, nodes in llm.pipelines.items():
            for n, node in enumerate(nodes):
                named[f"pipelines.{title}.{n}.provider"] = node.provider
                named |= {f"pipelines.{title}.{n}.fallback.{i}": name for i, name in enumerate(node.fallback or ())}
        for key, name in named.items():
            if name is not None and name.partition("/")[0] not in providers:
                raise problem("no such provider", valid, key=key, value=name)
        for name, table in llm.tables.items():
            if table.pipeline is not None and table.pipeline not in llm.pipelines:
                known = ", ".join(llm.pipelines) or "none is configured, see llm.pipelines"
                raise problem("no such pipeline", known, key=f"tables.{name}.pipeline", value=table.pipeline)
        return llm

    @field_validator("streams")
    @classmethod
    def _each_once(cls, streams: list[sections.Stream], info: ValidationInfo) -> list[sections.Stream]:
        app = info.data.get("app")
        names = [entry.stream for entry in streams]
        for name in names:
            if names.count(name) > 1:
                raise problem(f"'{name}' is there twice", "each stream once")
        if app is not None and app.enable_redis_queue and app.task_queue_stream not in names:
            return [*streams, sections.Stream(stream=app.task_queue_stream, group=app.task_queue_group)]
        return streams

    @field_validator("worker")
    @classmethod
    def _threads_of_the_old_form(cls, worker: sections.Worker, info: ValidationInfo) -> sections.Worker:
        queue = info.data.get("queue")
        if queue is None or "concurrency" not in queue.model_fields_set or "threads" in worker.model_fields_set:
            return worker
        return worker.model_copy(update={"threads": queue.concurrency})

    @property
    def origins(self) -> dict[str, str]:
        """Dotted key -> "file /path", "env NAME" or "secret file /path"; a key not in it has its default."""
        return self._origins

    @property
    def database_url(self) -> str:
        """The one address of the ledger, its password included."""
        if self.database.url:
            return self.database.url
        if self.mysql.dsn:
            return urls.database_url_of_go_dsn(self.mysql.dsn)
        return "sqlite:///sytq.db"

    @property
    def retention(self) -> float:
        """Seconds for which a finished task can still be looked up."""
        return self.queue.retention

    @property
    def llm_provider(self) -> str | None:
        """The name in `providers` that valuations use; None when no provider is configured."""
        return self.llm.provider or next(iter(self.providers), None)

    @property
    def log_format(self) -> str:
        """json or console: as set, else JSON in production and where `logger.development` is false."""
        if self.logger.format:
            return self.logger.format
        return "json" if self.app.mode == "production" or self.logger.development is False else "console"

    def describe(self) -> Iterator[tuple[str, str, str]]:
        """Yield (dotted key, value with secrets masked, origin) of every setting, section by section."""
        for key, value in _leaves(self.model_dump(mode="json"), ()):
            yield key, _shown(key, value), self._origin(key)

    def _origin(self, key: str) -> str:
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            if origin := self._origins.get(".".join(parts[:length])):
                return origin
        older = INHERITED.get(key)
        if older and older in self._origins:
            return f"{self._origins[older]} ({older})"
        return "default"


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value


def _shown(key: str, value: object) -> str:
    if value is None:
        return ""
    if is_secret_key(key) and value != "":
        return MASK
    return mask_text(value) if isinstance(value, str) else mask_text(json.dumps(value, ensure_ascii=False))
