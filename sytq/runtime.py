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
from sytq import otel
from sytq.apikeys import ApiKeys
from sytq.audit import Audit
from sytq.broker.broker import StreamsBroker
from sytq.broker.delivery import Delivery
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.broker.limits import QueueLimit
from sytq.broker.meters import Meters
from sytq.broker.operations import Operations
from sytq.broker.redis import Redis
from sytq.config import Settings
from sytq.config.outgoing import Outbound
from sytq.config.sections import Stream
from sytq.crew import Crew
from sytq.db import open_database
from sytq.errors import ConfigError, InvalidInput, RedisUnavailable
from sytq.history import History
from sytq.housekeeping.gates import GateLoop
from sytq.housekeeping.loop import Loop
from sytq.housekeeping.pickup import PickUp
from sytq.housekeeping.promote import Promoter
from sytq.housekeeping.publish import Publisher
from sytq.housekeeping.reconcile import Reconciler
from sytq.housekeeping.record import Recorder
from sytq.housekeeping.schedule import Scheduler
from sytq.housekeeping.streams import StreamLoop
from sytq.http import BlockingClient, Client, Guard
from sytq.ids import new_id
from sytq.ledger import Ledger
from sytq.middleware.lifecycle import Lifecycle
from sytq.middleware.measure import Measure
from sytq.middleware.naming import Naming
from sytq.middleware.retry import RetryPolicy
from sytq.middleware.sentry import SentryReports
from sytq.middleware.tracing import Tracing
from sytq.operate import Operator
from sytq.plugin import TaskType
from sytq.registry import Registry
from sytq.scrape import Scrape
from sytq.start import Services
from sytq.submit import Submitter
from sytq.timetable import Timetable

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
    timetable: Timetable
    operator: Operator
    inspection: Inspection
    scrape: Scrape
    guard: Guard
    apikeys: ApiKeys
    audit: Audit
    meters: Meters


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
        timetable=Timetable(database),
        operator=Operator(ledger, operations, submitter, registry),
        inspection=inspection,
        scrape=Scrape(sytq.__version__, settings, ledger, inspection, operations),
        guard=guard,
        apikeys=ApiKeys(database),
        audit=Audit(database),
        meters=Meters(redis, keys),
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
    crew = Crew(limit)
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

    otel.measure(runtime.scrape.collect, held, {declared.name: declared.queue for declared in runtime.registry})


def services(runtime: Runtime, client: Client, loop: asyncio.AbstractEventLoop) -> Services:
    """What the contexts of one process share; `loop` is the one that `client` belongs to."""
    return Services(
        settings=runtime.settings,
        ledger=runtime.ledger,
        broker=runtime.broker,
        submitter=runtime.submitter,
        operator=runtime.operator,
        history=History(runtime.database),
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
        lambda: GateLoop(redis, keys, name(), runtime.broker, liveness),
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
