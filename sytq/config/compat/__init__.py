"""The environment variables of the replaced systems (contracts C, D and E) and their meaning here."""

from __future__ import annotations

from collections.abc import Mapping

#: The type of a job or a stream's message that names none (contracts C and D).
DEFAULT_TYPE = "default"
#: The consumer group of a stream (contract C).
DEFAULT_GROUP = "scheduler_group"
#: Variable -> setting; of two variables for one setting the later wins.
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
#: Settings that are checked and have no effect, so that a file with them stays valid.
NO_EFFECT = frozenset({"app.name", "mysql.max_idle_conns", "sentry.traces_sample_rate"})
#: Alternatives: a setting given in a later layer replaces the others in the layers below.
REPLACES: Mapping[str, tuple[str, ...]] = {
    "redis.url": ("redis.addr", "redis.username", "redis.password", "redis.db"),
    "redis.addr": ("redis.url",),
    "database.url": ("mysql.dsn",),
    "mysql.dsn": ("database.url",),
    "api.port": ("app.port",),
    "app.port": ("api.port",),
}
#: Shells and base images use ENV too; only these words are meant for sytq.
_MODES = {
    "production": "production",
    "prod": "production",
    "development": "development",
    "dev": "development",
    "test": "test",
    "testing": "test",
}


def meaning(name: str, value: str) -> str:
    """The meaning of an old variable's value; empty for a value that is not meant for sytq."""
    return _MODES.get(value.lower(), "") if name == "ENV" else value
