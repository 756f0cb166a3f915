"""gunicorn's configuration: `gunicorn -c python:sytq.api.gunicorn_conf 'sytq.api:create_app()'`.

gunicorn takes a module's names as its settings: importing this module reads the configuration, as `sytq.actors` does.
Nothing is preloaded: connections are opened after the fork.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import Any

import structlog
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from sytq.api.auth import is_local
from sytq.api.worker import STOPS, Worker
from sytq.config import load
from sytq.errors import ConfigError
from sytq.observability import logs, process_group

try:
    # Without plugins: a reload would keep the plugin code loaded in this process.
    _settings = load(plugins=False)
except ConfigError as error:
    sys.exit(f"sytq: {error}")


class _Logs(Logger):  # type: ignore[misc]
    """gunicorn's loggers, in the format of all our logs."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logs.configure(_settings.logger.level, _settings.log_format, "api", _settings.logger.fields)


def on_starting(server: Any) -> None:
    """Prepare the metrics and the fork of the workers, and log once which clients are served."""
    process_group.share(os.getpid())
    os.register_at_fork(after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS))
    if _settings.auth.enabled:
        return
    log = structlog.get_logger("sytq.api")
    if _settings.api.host == "localhost" or is_local((_settings.api.host, 0)):
        log.info("auth is off: only loopback clients are served, and they may do everything")
    else:
        log.warning(
            "listening beyond loopback without auth: only loopback clients are served",
            host=_settings.api.host,
            configure="auth.enabled: true, and auth.users or keys (`sytq key create`)",
        )


def pre_fork(server: Any, worker: Any) -> None:
    """Have the signals that stop a process wait for its handlers (sytq.api.worker)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def child_exit(server: Any, worker: Any) -> None:
    """Keep the metrics of an ended process."""
    process_group.merge_dead()


def on_exit(server: Any) -> None:
    """Remove the group's folder."""
    shutil.rmtree(process_group.folder(os.getpid()), ignore_errors=True)


proc_name = "sytq-api"
worker_class = Worker
logger_class = _Logs
loglevel = _settings.logger.level
host = _settings.api.host
bind = [f"[{host}]:{_settings.api.port}" if ":" in host else f"{host}:{_settings.api.port}"]
workers = _settings.api.workers
worker_connections = 3000  # of which 2,000 may wait for tasks
backlog = 2048
keepalive = 5
graceful_timeout = max(1, round(_settings.api.graceful_timeout))
# A worker that shuts down sends the master no heartbeat, and must not be killed for that.
timeout = graceful_timeout + 30
asgi_lifespan = "on"
limit_request_line = 8190  # a query of 2,000 characters, percent-encoded
limit_request_fields = 100
limit_request_field_size = 8190
# `api.trusted_proxies` says whose X-Forwarded-* count (sytq.api.forwarded); gunicorn would believe all of this machine.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# A socket at a fixed path would be shared by every gunicorn of this account.
control_socket_disable = True
