"""The app: every resource on its path. Must not open a connection before the process serves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import falcon.asgi

import sytq
from sytq import runtime
from sytq.api import problems
from sytq.api.auth import Auth, users_of
from sytq.api.compat import routes as compat
from sytq.api.credentials import Credentials
from sytq.api.dashboard import routes as dashboard
from sytq.api.data_loader import DataLoader
from sytq.api.forwarded import Forwarded
from sytq.api.health import Health, Live, Metrics, Ready
from sytq.api.openapi import DocsPage, OpenApi
from sytq.api.parameters import only
from sytq.api.parts import Parts
from sytq.api.presence import Presence
from sytq.api.queue_depth import QueueDepthLimit
from sytq.api.quota import Quota
from sytq.api.request_context import ROUTE, RequestContext
from sytq.api.sessions import Sessions, of_settings
from sytq.api.submission import Submission
from sytq.api.submission_batcher import SubmissionBatcher
from sytq.api.task_watcher import TaskWatcher
from sytq.api.threads import Threads
from sytq.api.v2 import routes as v2
from sytq.broker.quotas import Quotas
from sytq.config import Settings, load
from sytq.ledger.api_keys import ApiKeys
from sytq.ledger.audit import Audit
from sytq.ledger.migrations import pending
from sytq.ledger.search import Search
from sytq.observability import logs, sentry, tracing
from sytq.service.ledger_check import LedgerCheck
from sytq.service.prometheus import Scrape

_SQL_THREADS = 8
_REDIS_THREADS = 4
_PLUGIN_THREADS = 4
#: Of the dashboard alone: pages that wait for a slow store delay no request of the API. Seconds that they wait.
_PAGE_SQL_THREADS, _PAGE_REDIS_THREADS, _PAGE_TIMEOUT = 4, 4, 5.5


def create_app(settings: Settings | None = None) -> falcon.asgi.App[Any, Any]:
    """Return the ASGI app; loads the settings when none are given. Raises ConfigError."""
    settings = load() if settings is None else settings
    logs.configure(settings.logger.level, settings.log_format, "api", settings.logger.fields)
    tracing.start(settings, "api", sytq.__version__)
    sentry.start(settings, "api", sytq.__version__)
    parts = runtime.build(settings)
    sql = Threads("the database", size=_SQL_THREADS)
    redis = Threads("Redis", size=_REDIS_THREADS)
    page_sql = Threads("the database", size=_PAGE_SQL_THREADS, timeout=_PAGE_TIMEOUT)
    page_redis = Threads("Redis", size=_PAGE_REDIS_THREADS, timeout=_PAGE_TIMEOUT)
    counting = Threads("the quotas", size=1)
    plugins = Threads("plugins", size=_PLUGIN_THREADS, max_waiting=50)
    quota = Quota(Quotas(parts.redis, parts.keys), counting)
    limits = {name: queue.max_waiting for name, queue in settings.queues.items() if queue.max_waiting}
    queue_depth = QueueDepthLimit(limits, parts.inspection, redis)
    missing = partial(pending, parts.database, parts.registry.plugins)
    ledger_check = LedgerCheck(parts.database, missing)
    batcher = SubmissionBatcher(parts.ledger, parts.submitter, ledger_check)
    submission = Submission(parts.registry, parts.submitter, batcher, quota, queue_depth, settings.logger.tasks)
    data_loader = DataLoader(parts.ledger, parts.inspection, sql, redis)
    task_watcher = TaskWatcher(parts.inspection, parts.ledger, redis, sql)
    users = users_of(settings)
    credentials = Credentials(users, settings.auth.realm, ApiKeys(parts.database), sql)
    sessions = Sessions(credentials, of_settings(settings, users, parts.database), sql)
    search = Search(parts.database)
    shared = Parts(parts, submission, data_loader, task_watcher, search, ledger_check, sessions, sql, redis, plugins)

    app = RequestContext(
        max_body=settings.api.max_body,
        trace=tracing.request if tracing.tracing() else None,
        forwarded=Forwarded(settings.api.trusted_proxies, settings.dashboard.base_path),
        media_type=falcon.MEDIA_JSON,
        middleware=[
            Auth(settings, credentials, sessions, quota, Audit(parts.database), sql),
            _Middleware(batcher, [sql, redis, page_sql, page_redis, counting, plugins], shared),
        ],
    )
    app.req_options.strip_url_path_trailing_slash = True
    problems.install(app, missing, sql)
    compat.add_routes(app, shared)
    v2.add_routes(app, shared)
    if settings.dashboard.enabled:
        page_loader = DataLoader(parts.ledger, parts.inspection, page_sql, page_redis)
        dashboard.add_routes(app, replace(shared, data_loader=page_loader, sql=page_sql, redis=page_redis))
    app.add_route("/openapi.json", OpenApi(parts.registry))
    app.add_route("/docs", DocsPage())
    app.add_route("/health", Health())
    app.add_route("/healthz/startup", Health())
    app.add_route("/healthz/live", Live(batcher))
    comparison = parts.comparison()
    scrape = Scrape(sytq.__version__, settings, parts.ledger, parts.inspection, parts.cards, comparison, ledger_check)
    app.add_route("/metrics", Metrics(scrape, redis))
    ready = Ready(shared)
    app.add_route("/healthz/ready", ready)
    app.add_middleware([ready, Presence(shared, comparison)])
    return app


class _Middleware:
    """Falcon middleware: runs the checks of a start, writes submitted tasks before the end, notes routes for
    RequestContext's metrics, and refuses query parameters that a resource's `parameters` (method -> names) do not list.
    """

    def __init__(self, batcher: SubmissionBatcher, pools: list[Threads], parts: Parts) -> None:
        self._batcher = batcher
        self._pools = pools
        self._parts = parts

    async def process_resource(self, req: falcon.asgi.Request, resp: object, resource: object, params: object) -> None:
        req.scope[ROUTE] = req.uri_template
        parameters = getattr(resource, "parameters", None)
        if parameters is not None and hasattr(resource, f"on_{req.method.lower()}"):  # other methods get a 405
            only(req, parameters.get("GET" if req.method == "HEAD" else req.method, ()))

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        # gunicorn's worker knows how many connections it has.
        watcher = self._parts.task_watcher
        watcher.max_listeners = scope.get("state", {}).get("max_waiting", watcher.max_listeners)
        self._checks = [asyncio.create_task(self._parts.sql.run(check)) for check in self._parts.at_start]

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        await self._batcher.close()
        await asyncio.to_thread(tracing.stop)
        for pool in self._pools:
            pool.close()
        self._parts.runtime.redis.close()
