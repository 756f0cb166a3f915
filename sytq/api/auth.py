"""Authentication and authorization: API keys and Basic users, or, without auth, loopback clients only.

Checks every request except to health and metrics, and writes the audit log. A resource declares the scopes of its
methods in `scopes` (method -> scope); by default safe methods require `read` and others `operate`. The dashboard's
paths, and they alone, take a session's cookie too, and lead a browser without one to the login form.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import falcon.asgi
import peewee
import structlog

from sytq.api.caller import LOCAL, NOBODY, Caller
from sytq.api.credentials import Credentials
from sytq.api.dashboard.errors import is_page
from sytq.api.dashboard.navigation import LOGIN, LOGOUT
from sytq.api.dashboard.rendering import relative, url
from sytq.api.forwarded import address_in, names_remote_client
from sytq.api.quota import Quota
from sytq.api.sessions import Sessions, session_of, set_cookie
from sytq.api.threads import Threads
from sytq.config import Settings
from sytq.errors import ConfigError, DatabaseUnavailable, Overloaded
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
    `req.context.audit_detail`, None when nothing was changed. `req.context.session` is the token of the session that
    the caller came by, if any. Streams, which may outlast session and key, ask `req.context.is_still_valid(req)`.
    """

    def __init__(
        self, settings: Settings, credentials: Credentials, sessions: Sessions, quota: Quota, audit: Audit, sql: Threads
    ) -> None:
        self._enabled = settings.auth.enabled
        self._dashboard = settings.dashboard
        self._credentials = credentials
        self._sessions = sessions
        self._quota = quota
        self._audit = audit
        self._sql = sql

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        req.context.caller = LOCAL
        req.context.headers, req.context.limits, req.context.audit_detail = {}, {}, ""
        req.context.session = None
        if _is_open(req.path):
            return
        origin = req.get_header("Origin")
        if origin is not None and urlsplit(origin).netloc != req.netloc:
            # Refuse pages of other sites in a browser on this machine.
            raise falcon.HTTPForbidden(description="requests of web pages from another origin are not served")
        client = req.scope.get("client")
        # Takes the request: a part that has it would be a cycle, and every request waited for the garbage collector.
        req.context.is_still_valid = self._is_still_valid
        if self._enabled:
            req.context.caller = NOBODY
            if req.path != LOGIN:
                req.context.caller = await self._authenticated(req, resp, client)
                await self._quota.request(req, req.context.caller)
        elif not is_local(client) or not _is_own_name(req.host) or (is_page(req.path) and _is_proxied(req)):
            raise falcon.HTTPForbidden(description=_LOOPBACK_ONLY)

    async def _authenticated(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, client: object) -> Caller:
        """The caller of a request. Raises HTTPStatus to lead a browser to the login form."""
        header = req.get_header("Authorization")
        # A browser at `/` is led to the dashboard.
        at_root = req.path == "/" and req.method in _SAFE and "text/html" in (req.get_header("Accept") or "")
        if not self._dashboard.enabled or not (is_page(req.path) or at_root):
            return await self._credentials.caller(header, client)
        token = session_of(req)
        caller = await self._sessions.caller(token, client) if token else None
        if caller is not None:
            req.context.session = token
            return caller
        if header is not None:
            return await self._credentials.caller(header, client)
        if token:
            set_cookie(req, resp, None)
        if req.get_header("HX-Request"):
            # No Basic: the browser would ask for a password over the page.
            raise falcon.HTTPUnauthorized(description="your session has ended; log in again", challenges=["Bearer"])
        wanted = relative(req) if req.method in _SAFE and req.path != "/" else ""
        location = url(req.root_path, "/login", next=wanted or None)
        raise falcon.HTTPStatus(falcon.HTTP_303, headers={"Location": location, "Cache-Control": "no-store"})

    async def _is_still_valid(self, req: falcon.asgi.Request) -> bool:
        """Whether the session or key of a request has not ended since."""
        if not self._enabled:
            return True
        client = req.scope.get("client")
        try:
            if req.context.session is not None:
                return await self._sessions.caller(req.context.session, client) is not None
            await self._credentials.caller(req.get_header("Authorization"), client)
        except falcon.HTTPError:
            return False
        except (DatabaseUnavailable, Overloaded):
            pass  # nobody can end it now
        return True

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        if _is_open(req.path) or req.path == LOGIN:
            return
        caller: Caller = req.context.caller
        caller.require_scope(_scope(resource, req.method))
        if req.method in _SAFE or not is_page(req.path):
            return
        caller.require_scope(_scope(resource, "GET"))  # a form that is refused is shown in its page
        if self._dashboard.read_only and req.path != LOGOUT:
            raise falcon.HTTPForbidden(description="this dashboard is read-only (dashboard.read_only)")

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


def users_of(settings: Settings) -> dict[str, str]:
    """The Basic users with their passwords. Raises ConfigError for a name that cannot be the owner of a task."""
    for name in settings.auth.users if settings.auth.enabled else ():
        if not name.isascii() or len(name) > _OWNER_MAX:
            raise ConfigError(f"auth.users: '{name}' is not valid; valid: 1 to {_OWNER_MAX} ASCII characters")
    users = {name: password.get_secret_value() for name, password in settings.auth.users.items()}
    # The Go service read keys of its file in lower case: its callers log in as `admin` where it says `Admin`.
    return {name.lower(): password for name, password in users.items()} | users


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(_STATIC)


def _is_proxied(req: falcon.asgi.Request) -> bool:
    """Whether a proxy on this machine says that it serves another one. The API cannot refuse that: proxies that ask for
    credentials themselves have always been in front of it. The field can only take rights away.
    """
    return names_remote_client(req.scope["headers"])


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
    address = address_in(host)
    return address is not None and address.is_loopback
