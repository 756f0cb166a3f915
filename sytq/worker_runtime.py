"""Builds what runs tasks: the broker of a worker process with its actors, middleware and loops.

Nothing here connects or starts a thread: Dramatiq starts executor and loops when it boots the worker. Only `boot`
touches globals.
"""

from __future__ import annotations

import concurrent.futures
import math
import os
from collections.abc import Callable, Iterator
from functools import partial

import dramatiq
from dramatiq.middleware import Middleware

import sytq.http.sessions  # noqa: F401  # brings aiohttp, which the first request would import on the event loop
from sytq import __version__
from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery
from sytq.broker.limiters import Limiters
from sytq.broker.operations import Operations
from sytq.executor.attempt import Services
from sytq.executor.broker import StreamsBroker
from sytq.executor.permits import PermitBatcher
from sytq.executor.runner import Runner
from sytq.http.client import Client
from sytq.ledger.schedules import Schedules
from sytq.ledger.search import Search
from sytq.ledger.search_upkeep import SearchUpkeep
from sytq.observability import logs, process_group, sentry, tracing
from sytq.runtime import Runtime
from sytq.service.adoption import Adoption
from sytq.service.cards import CardMaker
from sytq.streams.loop import StreamLoop
from sytq.tasktypes.declaration import ANNOUNCEMENT
from sytq.tasktypes.tasktype import TaskType
from sytq.worker.lifecycle import Lifecycle
from sytq.worker.loops.comparer import Comparer
from sytq.worker.loops.figures import FiguresLoop
from sytq.worker.loops.indexer import Indexer
from sytq.worker.loops.limiters import LimiterLoop
from sytq.worker.loops.loop import Loop, PluginLoop
from sytq.worker.loops.pairing import PairingLoop
from sytq.worker.loops.position import Position
from sytq.worker.loops.promoter import Promoter
from sytq.worker.loops.reconciler import Reconciler
from sytq.worker.loops.recorder import Recorder
from sytq.worker.loops.scheduler import Scheduler
from sytq.worker.loops.suspects import SuspectLoop
from sytq.worker.middleware.naming import Naming
from sytq.worker.middleware.retry import RetryPolicy

#: Threads on which async tasks do their short blocking work, and on which all tasks call Redis.
_BLOCKING_THREADS, _REDIS_THREADS = 8, 4


def boot(runtime: Runtime, *, isolated: str = "") -> StreamsBroker:
    """Prepare this process to run tasks: its logs, metrics, traces and reports of errors, and Dramatiq's broker."""
    settings = runtime.settings
    logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)
    if settings.worker.port is not None:  # where the health server answers for the group
        process_group.share(os.getppid())
    tracing.start(settings, "worker", __version__)
    sentry.start(settings, "worker", __version__)
    broker = build_worker(runtime, isolated=isolated)
    dramatiq.set_broker(broker)
    return broker


def build_worker(runtime: Runtime, *, isolated: str = "") -> StreamsBroker:
    """Build the broker of a worker process, with an actor for every task type, the middleware and the loops.

    `isolated` is the name of an isolated process (sytq.isolated), which has no loops.
    """
    settings = runtime.settings
    # Heartbeats have their own connection: waiting for a free or dead one could outlast the lease.
    timeout = settings.worker.liveness / 3
    heartbeat_redis = Redis(settings.redis.dsn, home=runtime.keys.epoch, connections=4, timeout=timeout)
    # So have running tasks: nothing that waits longer on purpose takes their connections.
    timeout, connections = settings.worker.redis_timeout, settings.worker.threads + 10
    task_redis = Redis(settings.redis.dsn, home=runtime.keys.epoch, connections=connections, timeout=timeout)
    broker = StreamsBroker(runtime.redis, heartbeat_redis, task_redis, runtime.keys, settings, isolated)
    broker.executor.may_start, broker.executor.recorded = runtime.hold.may_start, runtime.hold.recorded
    client = Client(runtime.guard, settings.outbound.proxy)
    services = task_services(
        runtime, client, broker.executor.limiters, task_redis, broker.executor.heartbeat.valid_since
    )
    runner = Runner(services, broker.executor.event_loop.threads, broker.function_hooks())
    broker.loop_middleware += _middleware(runtime, broker)
    for middleware in broker.loop_middleware:
        broker.add_middleware(middleware)
    if not isolated:
        broker.add_middleware(_lifecycle(runtime, broker))
    for declared in runtime.registry:
        _declare_actor(broker, runner, declared)
    return broker


def task_services(
    runtime: Runtime,
    client: Client,
    limiters: Limiters,
    redis: Redis | None = None,
    valid_since: Callable[[], float] = lambda: -math.inf,
) -> Services:
    """What the contexts of one process share.

    Without a `redis` of its own and a lease, the process is no worker: nobody else runs its tasks.
    """
    return Services(
        settings=runtime.settings,
        ledger=runtime.ledger,
        operations=Operations(redis or runtime.redis, runtime.keys),
        limiters=limiters,
        permits=PermitBatcher(limiters),
        submitter=runtime.submitter,
        recording=runtime.recording,
        operator=runtime.operator,
        history=Search(runtime.database),
        client=client,
        threads=concurrent.futures.ThreadPoolExecutor(_BLOCKING_THREADS, thread_name_prefix="blocking"),
        redis_threads=concurrent.futures.ThreadPoolExecutor(_REDIS_THREADS, thread_name_prefix="redis"),
        valid_since=valid_since,
    )


def _middleware(runtime: Runtime, broker: StreamsBroker) -> Iterator[Middleware]:
    """After an attempt these are called in reverse: the policy decides the outcome before the others report it."""
    settings, executor = runtime.settings, broker.executor
    yield Naming()
    if settings.sentry.dsn is not None:
        from sytq.worker.middleware.sentry import SentryReports

        yield SentryReports(runtime.ledger, runtime.registry)
    if settings.otel.endpoint is not None:
        from sytq.worker.middleware.tracing import Tracing

        yield Tracing(executor.name)
    yield RetryPolicy(runtime.registry, settings.logger.tasks)


def _lifecycle(runtime: Runtime, broker: StreamsBroker) -> Lifecycle:
    settings, executor = runtime.settings, broker.executor
    withdraw = partial(executor.limiters.withdraw, _configurations(runtime))
    pair = runtime.pairing(executor.name)
    card = CardMaker("worker", __version__, settings, runtime.registry, pair.identity)
    executor.heartbeat.card = card.text
    pairing = PairingLoop(pair, executor.admitted)
    loops = list(_loops(runtime, broker, lambda: pairing.certain))
    for loop in loops:
        loop.admitted = executor.admitted
    return Lifecycle(executor, settings.worker, [pairing, *loops], withdraw, card)


def _configurations(runtime: Runtime) -> list[str]:
    """The fingerprints of what the calls of this worker are made with."""
    brought = [plugin.configurations for plugin in runtime.registry.plugins if plugin.configurations is not None]
    return [configuration for configurations in brought for configuration in configurations(runtime)]


def _loops(runtime: Runtime, broker: StreamsBroker, paired: Callable[[], bool]) -> Iterator[Loop]:
    settings, registry, ledger, submitter = runtime.settings, runtime.registry, runtime.ledger, runtime.submitter
    redis, keys, inspection = runtime.redis, runtime.keys, runtime.inspection
    worker = broker.executor.name
    yield Promoter(redis, keys, broker)
    position = Position(redis, keys, runtime.database, Adoption(ledger, redis, keys, registry))
    yield Recorder(redis, keys, worker, runtime.recording, position)
    yield Comparer(redis, keys, worker, runtime.cards, runtime.comparison())
    fields = {f"payload.{path}" for declared in registry for path in declared.search}
    yield Indexer(redis, keys, worker, SearchUpkeep(runtime.database), fields)
    yield FiguresLoop(redis, keys, worker, runtime.database)
    yield LimiterLoop(redis, keys, worker, broker.executor.limiters, _configurations(runtime))
    only = settings.worker.queues
    yield SuspectLoop(
        *(redis, keys, broker.executor, lambda: only or list(broker.queues)),
        group=only,
        bounded=settings.max_running is not None,
        shutdown_timeout=settings.worker.shutdown_timeout,
    )
    for loop in _taking_loops(runtime, worker, paired):
        loop.hold = runtime.hold
        yield loop
    for stream in settings.streams:
        if stream.type in registry:
            operator = runtime.operator
            yield StreamLoop(stream, redis, broker.executor, registry, ledger, submitter, operator, inspection)


def _taking_loops(runtime: Runtime, worker: str, paired: Callable[[], bool]) -> Iterator[Loop]:
    """The loops that bring tasks from elsewhere to Redis."""
    redis, keys, registry, submitter = runtime.redis, runtime.keys, runtime.registry, runtime.submitter
    others = runtime.recording, runtime.inspection, runtime.operator, runtime.settings.worker.liveness
    yield Reconciler(redis, keys, worker, runtime.ledger, submitter, *others, paired)
    yield Scheduler(redis, keys, worker, registry, submitter, Schedules(runtime.database))
    for plugin in registry.plugins:
        for name, make in plugin.loops.items():
            if (work := make(runtime)) is not None:
                yield PluginLoop(name, redis, keys, worker, work)


def _declare_actor(broker: StreamsBroker, runner: Runner, declared: TaskType) -> None:
    declare = dramatiq.actor(
        actor_name=declared.name,
        queue_name=declared.queue,
        broker=broker,
        version=declared.version,
        runner=runner.runner(declared),
        slot="loop" if declared.is_async else "thread",
    )
    made = declare(_on_the_event_loop)
    if declared.role == "announcement":
        broker.actors[ANNOUNCEMENT] = made


def _on_the_event_loop(delivery: Delivery) -> None:
    raise AssertionError(f"{delivery.type} is submitted to the event loop: Dramatiq calls no actor")
