"""The configuration of the replaced systems: their sections and environment variables, and what each means here.

Contract A has the sections `app`, `mysql` and `queue` and `redis.addr`; C, D and E have the variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from sytq.config import urls
from sytq.config.sections import Api, Database, PositiveDuration, Section, Stream, Worker
from sytq.config.values import Count, GoDsn, Port, StreamName, Text, problem

#: Each with the setting it means; of two for one setting the later wins.
VARIABLES: Mapping[str, str] = {
    "ENV": "app.mode",
    "APP_ENABLE_REDIS_QUEUE": "app.enable_redis_queue",
    "APP_TASK_QUEUE_STREAM": "app.task_queue_stream",
    "APP_TASK_QUEUE_GROUP": "app.task_queue_group",
    "SERVER_HOST": "api.host",
    "SERVER_PORT": "api.port",
    "API_PORT": "api.port",
    "REDIS_ADDR": "redis.addr",
    "WORKER_NUM_WORKERS": "worker.threads",
    "WORKER_CONCURRENCY": "worker.async_concurrency",
    "WORKER_MAX_CONCURRENCY": "worker.async_concurrency",
    "WORKER_RETRY_INTERVAL": "worker.retry_interval",
    "WORKER_REQUEST_TIMEOUT": "worker.request_timeout",
    "WORKER_JOB_TIMEOUT": "worker.job_timeout",
    "WORKER_RETRY_ATTEMPTS": "worker.retry_attempts",
    "WORKER_RETRY_DELAY": "worker.retry_delay",
    "LOG_LEVEL": "logger.level",
    "LOG_FORMAT": "logger.format",
}
#: Two ways to say one thing: the one given in a later layer replaces the others of the layers below.
REPLACES: Mapping[str, tuple[str, ...]] = {
    "redis.url": ("redis.addr", "redis.username", "redis.password", "redis.db"),
    "redis.addr": ("redis.url",),
    "database.url": ("mysql.dsn",),
    "mysql.dsn": ("database.url",),
    "api.port": ("app.port",),
    "app.port": ("api.port",),
}
#: Shells and base images use ENV for things of their own; only these words are meant for us.
_MODES = {
    "production": "production",
    "prod": "production",
    "development": "development",
    "dev": "development",
    "test": "test",
    "testing": "test",
}


def meaning(name: str, value: str) -> str:
    """What an old variable's value means; empty for one that is not meant for us."""
    return _MODES.get(value.lower(), "") if name == "ENV" else value


class App(Section):
    name: Text = "sytq"
    mode: Literal["production", "development", "test"] = "development"
    port: Port | None = None
    enable_redis_queue: bool = False
    task_queue_stream: StreamName = "goodshunter:task:queue"
    task_queue_group: StreamName = "scheduler_group"


class Mysql(Section):
    dsn: GoDsn | None = Field(default=None, repr=False)
    max_idle_conns: int | None = Field(default=None, ge=0)
    max_open_conns: Count | None = None


class Queue(Section):
    concurrency: Count = 10
    retry: int = Field(default=3, ge=0)
    retention: PositiveDuration = 86400.0

    @property
    def max_attempts(self) -> int:
        """The first attempt and `retry` more."""
        return self.retry + 1


class OldSections(Section):
    """The old sections, and the settings that take their value from one while they are not given themselves."""

    app: App = App()
    mysql: Mysql = Mysql()
    queue: Queue = Queue()

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
