"""Authentication and authorization: API keys and Basic users, or, without auth, loopback clients only.

Checks every request except to health and metrics, and writes the audit log. A resource declares the scopes of its
methods in `scopes` (method -> scope); by default safe methods require `read` and others `operate`.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import falcon
import falcon.asgi
import peewee
import structlog

from sytq.api.caller import LOCAL, Caller
from sytq.api.credentials import Credentials
from sytq.api.forwarded import names_remote_client
from sytq.api.quota import Quota
from sytq.api.threads import Threads
from sytq.config import Settings
from sytq.errors import ConfigError, DatabaseUnavailable, Overloaded
from sytq.ledger.api_keys import ApiKeys
from sytq.ledger.audit import Audit
from sytq.ledger.values import utcnow

log = structlog.get_logger(__name__)

#: Paths of probes and scrapers, open to everyone.
OPEN = frozenset({"/health", "/healthz/live", "/healthz/ready", "/healthz/startup", "/metrics"})
#: The dashboard's style and scripts, which its login form needs.
_STATIC = "/dashboard/static/"
_OWNER_MAX = 64  # characters of sytq_tasks.owner, which is ASCII
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_ONLY = (
    "this server has no auth configured and therefore serves loopback clients only; to serve others set "
    "auth.enabled: true, and auth.users or keys (`sytq key create`)"
)


#: Suffixes of host names that public name servers do not have.
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".test", ".lan", ".home.arpa")


class Auth:
    """Falcon middleware; leaves the Caller in `req.context.caller`.

    Later parts put response headers into `req.context.headers`, and further text for the audit log into
    `req.context.audit_detail`, None when nothing was changed.
    """

    def __init__(self, settings: Settings, keys: ApiKeys, quota: Quota, audit: Audit, sql: Threads) -> None:
        self._enabled = settings.auth.enabled
        users = {name: password.get_secret_value() for name, password in settings.auth.users.items()}
        # The Go service read keys of its file in lower case: its callers log in as `admin` where it says `Admin`.
        users = {name.lower(): password for name, password in users.items()} | users
        check_users(settings)
        self._credentials = Credentials(users, settings.auth.realm, keys, sql)
        self._quota = quota
        self._audit = audit
        self._sql = sql

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        req.context.caller = LOCAL
        req.context.headers, req.context.limits, req.context.audit_detail = {}, {}, ""
        if _is_open(req.path):
            return
        origin = req.get_header("Origin")
        if origin is not None and urlsplit(origin).netloc != req.netloc:
            # Refuse pages of other sites in a browser on this machine.
            raise falcon.HTTPForbidden(description="requests of web pages from another origin are not served")
        client = req.scope.get("client")
        if self._enabled:
            req.context.caller = await self._credentials.caller(req.get_header("Authorization"), client)
            await self._quota.request(req, req.context.caller)
        elif not is_local(client) or names_remote_client(req.scope["headers"]) or not _is_own_name(req.host):
            raise falcon.HTTPForbidden(description=_LOOPBACK_ONLY)

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        if not _is_open(req.path):
            caller: Caller = req.context.caller
            caller.require_scope(_scope(resource, req.method))

    async def process_response(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, req_succeeded: bool
    ) -> None:
        if req.context.headers:
            resp.set_headers(req.context.headers)
        detail: str | None = req.context.audit_detail
        if req.method in _SAFE or not req_succeeded or resource is None or detail is None:
            return
        if _scope(resource, req.method) in ("operate", "admin"):
            entry = (utcnow(), req.context.caller.name, req.method, req.path, detail or None)
            try:
                await self._sql.run(self._audit.add, *entry)
            except (DatabaseUnavailable, Overloaded, peewee.PeeweeException) as error:  # the request itself is done
                said = type(error).__name__ if isinstance(error, peewee.PeeweeException) else str(error)
                log.warning("audit entry not written", caller=req.context.caller.name, path=req.path, error=said)


def check_users(settings: Settings) -> None:
    """Raise ConfigError for a Basic user whose name cannot be the owner of a task."""
    if settings.auth.enabled:
        for name in settings.auth.users:
            if not name.isascii() or len(name) > _OWNER_MAX:
                raise ConfigError(f"auth.users: '{name}' is not valid; valid: 1 to {_OWNER_MAX} ASCII characters")


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(_STATIC)


def _scope(resource: object, method: str) -> str:
    scopes: dict[str, str] = getattr(resource, "scopes", {})
    return scopes.get("GET" if method == "HEAD" else method) or ("read" if method in _SAFE else "operate")


@lru_cache(maxsize=1000)
def _is_own_name(host: str) -> bool:
    """Whether no public name server can point this Host header at this machine (DNS rebinding)."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "." not in host or host.lower().rstrip(".").endswith(_PRIVATE_NAMES)
    return True


def is_local(client: object) -> bool:
    """Whether an ASGI peer `(host, port)` is this machine; the peer of a unix socket is None."""
    if not client:
        return True
    assert isinstance(client, tuple | list)
    return _is_loopback(str(client[0]))


@lru_cache(maxsize=1000)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
