"""What `dramatiq sytq.actors` imports: the one module whose import has effects.

It reads the configuration, configures the logs and sets Dramatiq's broker. It connects to nothing yet.
"""

from __future__ import annotations

import dramatiq

import sytq
from sytq import config
from sytq.observability import logs, sentry, tracing
from sytq.runtime import attach_worker, build

settings = config.load()
logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)
tracing.start(settings, "worker", sytq.__version__)
sentry.start(settings, "worker", sytq.__version__)
runtime = build(settings)
attach_worker(runtime)
dramatiq.set_broker(runtime.broker)
