"""The sections of contract A (`app`, `mysql`, `queue`, `redis.addr` and `redis.db`) and their meaning here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sytq.config import sections, urls
from sytq.config.compat import DEFAULT_GROUP
from sytq.config.sections import DEFAULTS, Api, Database, PositiveDuration, Section, Stream, Worker
from sytq.config.values import Address, Count, GoDsn, Port, StreamName, Text, problem


class App(Section):
    name: Text = "sytq"
    mode: Literal["production", "development", "test"] = "development"
    port: Port | None = None
    enable_redis_queue: bool = False
    task_queue_stream: StreamName = "goodshunter:task:queue"
    task_queue_group: StreamName = DEFAULT_GROUP


class Mysql(Section):
    dsn: GoDsn | None = Field(default=None, repr=False)
    max_idle_conns: int | None = Field(default=None, ge=0)
    max_open_conns: Count | None = None


class Queue(Section):
    concurrency: Count = 10
    retry: int = Field(default=3, ge=0)
    retention: PositiveDuration = 86400.0

    @property
    def bound(self) -> int | None:
        """`concurrency` if it is given: the tasks that one `sytq worker` runs at once."""
        return self.concurrency if "concurrency" in self.model_fields_set else None

    @property
    def max_attempts(self) -> int:
        """The first attempt and the retries."""
        return self.retry + 1


class Redis(sections.Redis):
    """The section with the address in parts, beside `redis.url`."""

    addr: Address = "localhost:6379"
    db: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_address(self) -> Redis:
        if self.url is not None and "addr" in self.model_fields_set:
            raise problem("redis.addr says another address", "one of the two", key="url", value=self.url)
        if self.url is not None and self.db:
            raise problem("redis.url has its own database number", "0 beside redis.url", key="db", value=self.db)
        return self

    @property
    def dsn(self) -> str:
        """One URL with all parts, the password included."""
        url = self.url or f"redis://{self.addr}/{self.db}"
        return urls.with_login(url, self.username, self.password.get_secret_value())


class OldSections(Section):
    """The old sections, and the settings that take their value from these while they are not set."""

    app: App = DEFAULTS
    mysql: Mysql = DEFAULTS
    queue: Queue = DEFAULTS

    older: ClassVar[Mapping[str, str]] = {
        "api.port": "app.port",
        "worker.threads": "queue.concurrency",
        "streams": "app.enable_redis_queue",
        "database.pool": "mysql.max_open_conns",
    }

    @field_validator("api", check_fields=False)
    @classmethod
    def _one_port(cls, api: Api, info: ValidationInfo) -> Api:
        app: App | None = info.data.get("app")
        if app is None or app.port is None:
            return api
        if "port" in api.model_fields_set and api.port != app.port:
            raise problem(f"app.port says {app.port}", "one of the two", key="port", value=api.port)
        return api.model_copy(update={"port": app.port})

    @field_validator("database", check_fields=False)
    @classmethod
    def _one_database(cls, database: Database, info: ValidationInfo) -> Database:
        mysql: Mysql | None = info.data.get("mysql")
        if mysql is None:
            return database
        if database.url and mysql.dsn and database.url != urls.database_url_of_go_dsn(mysql.dsn):
            raise problem("mysql.dsn names another database", "one of the two", key="url", value=database.url)
        if mysql.max_open_conns and "pool" not in database.model_fields_set:
            return database.model_copy(update={"pool": mysql.max_open_conns})
        return database

    @field_validator("worker", check_fields=False)
    @classmethod
    def _threads(cls, worker: Worker, info: ValidationInfo) -> Worker:
        queue: Queue | None = info.data.get("queue")
        if queue is None or "concurrency" not in queue.model_fields_set or "threads" in worker.model_fields_set:
            return worker
        return worker.model_copy(update={"threads": queue.concurrency})

    @field_validator("streams", check_fields=False)
    @classmethod
    def _with_the_old_stream(cls, streams: list[Stream], info: ValidationInfo) -> list[Stream]:
        app: App | None = info.data.get("app")
        if app is None or not app.enable_redis_queue or app.task_queue_stream in [entry.stream for entry in streams]:
            return streams
        return [*streams, Stream(stream=app.task_queue_stream, group=app.task_queue_group)]
