"""Builds everything from the settings; the only place that does.

Owns what is wired to what. Nothing here connects, starts a thread or touches a global: `attach_worker` registers
what will be started when Dramatiq boots the worker.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dramatiq
import peewee
from dramatiq.middleware import TimeLimit

import sytq
from sytq.broker.broker import StreamsBroker
from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.broker.operations import Operations
from sytq.broker.queue_limits import QueueLimit
from sytq.broker.quotas import Quotas
from sytq.config import Settings
from sytq.config.outbound import Outbound
from sytq.config.sections import Stream
from sytq.errors import ConfigError, InvalidInput, RedisUnavailable
from sytq.executor.attempt import Services
from sytq.executor.runner import Runner
from sytq.http import BlockingClient, Client, Guard
from sytq.ids import new_id
from sytq.ledger.api_keys import ApiKeys
from sytq.ledger.audit import Audit
from sytq.ledger.database import open_database
from sytq.ledger.ledger import Ledger
from sytq.ledger.schedules import Schedules
from sytq.ledger.search import Search
from sytq.observability import tracing
from sytq.service.control import Operator
from sytq.service.prometheus import Scrape
from sytq.service.submission import Submitter
from sytq.streams.loop import StreamLoop
from sytq.tasktypes.declaration import TaskType
from sytq.tasktypes.registry import Registry
from sytq.worker.lifecycle import Lifecycle
from sytq.worker.loops.limiters import LimiterLoop
from sytq.worker.loops.loop import Loop
from sytq.worker.loops.pickup import PickUp
from sytq.worker.loops.promoter import Promoter
from sytq.worker.loops.publisher import Publisher
from sytq.worker.loops.reconciler import Reconciler
from sytq.worker.loops.recorder import Recorder
from sytq.worker.loops.scheduler import Scheduler
from sytq.worker.middleware.measure import Measure
from sytq.worker.middleware.naming import Naming
from sytq.worker.middleware.retry import RetryPolicy
from sytq.worker.middleware.sentry import SentryReports
from sytq.worker.middleware.tracing import Tracing

#: Threads on which async tasks do their short blocking work.
_HELPERS = 8


@dataclass(frozen=True)
class Runtime:
    """The parts of one process."""

    settings: Settings
    database: peewee.Database
    ledger: Ledger
    registry: Registry
    redis: Redis
    broker: StreamsBroker
    submitter: Submitter
    timetable: Schedules
    operator: Operator
    inspection: Inspection
    scrape: Scrape
    guard: Guard
    apikeys: ApiKeys
    audit: Audit
    meters: Quotas


def build(settings: Settings, also: Iterable[TaskType] = ()) -> Runtime:
    """Build what API, worker and command line have in common; `also` are types beside those that are installed.

    Raises ConfigError.
    """
    database = open_database(settings.database_url, pool=settings.database.pool, timeout=settings.database.timeout)
    registry = Registry.load(settings, also)
    for number, stream in enumerate(settings.streams):
        try:
            registry.get(stream.type)
        except InvalidInput as error:
            if not registry.quarantined:
                raise ConfigError(f"streams.{number}.{error}") from None
    keys = Keys(settings.redis.prefix)
    redis = Redis(settings.redis.dsn, home=keys.epoch, connections=200)
    queues = {declared.queue for declared in registry} | {"default"}
    inspection = Inspection(redis, keys, queues)
    ledger = Ledger(database, inspection.over)
    limits = {name: QueueLimit(queue.limit or 0, *(queue.rate or (0, 60.0))) for name, queue in settings.queues.items()}
    broker = StreamsBroker(
        redis,
        # Liveness must not wait in a crowd, nor for a dead connection longer than it lasts.
        pulse=Redis(settings.redis.dsn, home=keys.epoch, connections=4, timeout=settings.worker.liveness / 3),
        prefix=settings.redis.prefix,
        liveness=settings.worker.liveness,
        heartbeat=settings.worker.heartbeat,
        limits=limits,
        weights=settings.worker.priority_weights,
    )
    guard = _guard(settings.outbound)
    submitter = Submitter(registry, ledger, broker, guard)
    operations = Operations(redis, keys)
    return Runtime(
        settings=settings,
        database=database,
        ledger=ledger,
        registry=registry,
        redis=redis,
        broker=broker,
        submitter=submitter,
        timetable=Schedules(database),
        operator=Operator(ledger, operations, submitter, registry),
        inspection=inspection,
        scrape=Scrape(sytq.__version__, settings, ledger, inspection, operations),
        guard=guard,
        apikeys=ApiKeys(database),
        audit=Audit(database),
        meters=Quotas(redis, keys),
    )


def _guard(outbound: Outbound) -> Guard:
    return Guard(
        outbound.allow_networks,
        outbound.allow_hosts,
        schemes=outbound.schemes,
        ports=outbound.ports,
        only_hosts=outbound.only_hosts,
        deny_hosts=outbound.deny_hosts,
        deny_networks=outbound.deny_networks,
    )


def attach_worker(runtime: Runtime) -> None:
    """Make the runtime's broker one that works: an actor for every task type, the middleware, the loops."""
    limit = TimeLimit()
    crew = Runner(limit)
    broker = runtime.broker

    def started() -> None:  # in the worker process, where the event loop is
        client = Client(runtime.guard, runtime.settings.outbound.proxy)
        crew.services = services(runtime, client, broker.worker.lane.loop)

    broker.add_middleware(Naming())
    broker.add_middleware(limit)
    # What comes after a run is called in reverse: first the policy, then who reports its outcome.
    broker.add_middleware(Measure())
    if runtime.settings.sentry.dsn is not None:
        broker.add_middleware(SentryReports(runtime.ledger, runtime.registry))
    if runtime.settings.otel.endpoint is not None:
        broker.add_middleware(Tracing(partial(export_metrics, runtime)))
    broker.add_middleware(RetryPolicy(runtime.registry))
    broker.add_middleware(Lifecycle(runtime.settings, started, _loops(runtime)))
    for declared in runtime.registry:
        function: Callable[[Delivery], None]
        options: dict[str, Any]
        if declared.is_async:
            function, options = _on_the_loop, {"runner": crew.async_runner(declared)}
        else:
            function, options = crew.runner(declared), {"time_limit": declared.seconds * 1000}
        options["version"] = declared.version
        dramatiq.actor(actor_name=declared.name, queue_name=declared.queue, broker=broker, **options)(function)


def export_metrics(runtime: Runtime) -> None:
    """Begin to export the installation's metrics, from one of its processes at a time."""
    lease, holder, holds = runtime.broker.keys.lease("otel"), new_id(), False

    def held(seconds: float) -> bool:
        nonlocal holds
        # While Redis is away whoever had it goes on, to say so.
        with contextlib.suppress(RedisUnavailable):
            holds = bool(runtime.redis.call("lease", [lease], [holder, int(seconds * 1000)]))
        return holds

    tracing.measure(runtime.scrape.collect, held, {declared.name: declared.queue for declared in runtime.registry})


def services(runtime: Runtime, client: Client, loop: asyncio.AbstractEventLoop) -> Services:
    """What the contexts of one process share; `loop` is the one that `client` belongs to."""
    return Services(
        settings=runtime.settings,
        ledger=runtime.ledger,
        broker=runtime.broker,
        submitter=runtime.submitter,
        operator=runtime.operator,
        history=Search(runtime.database),
        client=client,
        blocking_client=BlockingClient(client, loop),
        threads=concurrent.futures.ThreadPoolExecutor(_HELPERS, thread_name_prefix="helper"),
    )


def _loops(runtime: Runtime) -> list[Callable[[], Loop]]:
    """The housekeeping loops, made once the worker has its name."""
    redis, keys, ledger, submitter = runtime.redis, runtime.broker.keys, runtime.ledger, runtime.submitter
    inspection, liveness = runtime.inspection, runtime.settings.worker.liveness

    watched = [table for table, settings in runtime.settings.llm.tables.items() if settings.pickup]

    def name() -> str:
        return runtime.broker.worker.name

    return [
        lambda: Promoter(redis, keys, runtime.broker),
        lambda: Publisher(redis, keys),
        lambda: Recorder(redis, keys, name(), submitter),
        lambda: Reconciler(redis, keys, name(), ledger, submitter, inspection, runtime.operator, liveness),
        lambda: LimiterLoop(redis, keys, name(), runtime.broker, liveness),
        lambda: Scheduler(redis, keys, name(), runtime.registry, submitter, runtime.timetable),
        *([partial(_pick_up, runtime, watched)] if watched and "llm" in runtime.registry else []),
        *(partial(_bridge, runtime, stream) for stream in runtime.settings.streams if stream.type in runtime.registry),
    ]


def _pick_up(runtime: Runtime, tables: list[str]) -> Loop:
    return PickUp(
        runtime.redis,
        runtime.broker.keys,
        runtime.broker.worker.name,
        runtime.registry,
        runtime.ledger,
        runtime.submitter,
        tables,
        runtime.settings.llm.labels.pending,
    )


def _bridge(runtime: Runtime, stream: Stream) -> Loop:
    return StreamLoop(
        stream,
        runtime.redis,
        runtime.broker.worker,
        runtime.registry,
        runtime.ledger,
        runtime.submitter,
        runtime.operator,
        runtime.inspection,
    )


def _on_the_loop(delivery: Delivery) -> None:
    raise AssertionError(f"{delivery.type} is async: the consumer hands it to the event loop, not to a thread")
