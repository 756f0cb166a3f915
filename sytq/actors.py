"""The module for `dramatiq sytq.actors`: its import configures logs and the broker, and connects to nothing."""

from __future__ import annotations

from sytq import config
from sytq.observability import logs
from sytq.runtime import build
from sytq.worker_runtime import boot

settings = config.load()
logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)  # build logs, too
boot(build(settings))
