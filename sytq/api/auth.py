"""Who may: HTTP Basic for the configured users, or, without auth, loopback only.

Owns the check of every request but those to health and metrics, and the owner that a task is submitted under.
Must not know what an endpoint does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from sytq.config import Settings
from sytq.errors import ConfigError

#: Open to everyone: what probes and scrapers ask.
OPEN = frozenset({"/health", "/healthz/live", "/healthz/ready", "/metrics"})
_OWNER_MAX = 64  # characters of sytq_tasks.owner, which is ASCII
_LOOPBACK_ONLY = (
    "this server has no auth configured and therefore serves loopback clients only; to serve others set "
    "auth.enabled: true and auth.users"
)


#: Names that public name servers do not have.
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".test", ".lan", ".home.arpa")


class Auth:
    """Falcon middleware; leaves the user's name, or None, in `req.context.owner`."""

    def __init__(self, settings: Settings) -> None:
        auth = settings.auth
        self._enabled = auth.enabled
        self._challenge = [f'Basic realm="{auth.realm}", charset="UTF-8"']
        self._users = {
            name: hashlib.sha256(password.get_secret_value().encode()).digest() for name, password in auth.users.items()
        }
        if self._enabled:
            for name in self._users:
                if not name.isascii() or len(name) > _OWNER_MAX:
                    raise ConfigError(f"auth.users: '{name}' is not valid; valid: 1 to {_OWNER_MAX} ASCII characters")

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        req.context.owner = None
        if req.path in OPEN:
            return
        origin = req.get_header("Origin")
        if origin is not None and urlsplit(origin).netloc != req.netloc:
            # A page of another site that a user of this machine has open is not a client of ours.
            raise falcon.HTTPForbidden(description="requests of web pages from another origin are not served")
        if self._enabled:
            req.context.owner = self._user(req.get_header("Authorization"))
        elif not is_local(req.scope.get("client")) or not _is_own_name(req.host):
            raise falcon.HTTPForbidden(description=_LOOPBACK_ONLY)

    def _user(self, header: str | None) -> str:
        """The user that the header proves. Raises HTTPUnauthorized."""
        scheme, _, credentials = (header or "").partition(" ")
        try:
            given = base64.b64decode(credentials.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            given = ""
        name, _, password = given.partition(":")
        known = self._users.get(name)
        # An unknown name costs the same as a wrong password.
        matches = hmac.compare_digest(known or bytes(32), hashlib.sha256(password.encode()).digest())
        if scheme.lower() != "basic" or known is None or not matches:
            raise falcon.HTTPUnauthorized(
                description="a valid user name and password are needed (HTTP Basic)",
                challenges=self._challenge,
            )
        return name


def _is_own_name(host: str) -> bool:
    """Whether a Host header is one that no name server can have pointed at this machine (DNS rebinding)."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "." not in host or host.lower().rstrip(".").endswith(_PRIVATE_NAMES)
    return True


def is_local(client: object) -> bool:
    """Whether an ASGI peer `(host, port)` is this machine; a unix socket has none and is."""
    if not client:
        return True
    assert isinstance(client, tuple | list)
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
