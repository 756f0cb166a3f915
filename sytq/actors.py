"""The module for `dramatiq sytq.actors`: its import configures logs and the broker, and connects to nothing."""

from __future__ import annotations

import os

import dramatiq

import sytq
from sytq import config
from sytq.observability import logs, process_group, sentry, tracing
from sytq.runtime import build
from sytq.worker_runtime import build_worker

settings = config.load()
logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)
if settings.worker.port is not None:  # where the health server answers for the group
    process_group.share(os.getppid())
tracing.start(settings, "worker", sytq.__version__)
sentry.start(settings, "worker", sytq.__version__)
dramatiq.set_broker(build_worker(build(settings)))
