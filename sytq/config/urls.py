"""Addresses of the database and Redis: checked, and turned from the old systems' forms into one URL.

Every error is a ValueError whose text never contains the address, which may have a password.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from sytq.durations import parse_duration

DATABASE_FORMS = "sqlite:////absolute/path, sqlite:///relative/path or mysql://user:password@host:3306/database"
GO_DSN_FORM = "user:password@tcp(host:3306)/database?charset=utf8mb4 or user:password@unix(/path/to.sock)/database"
#: In place of a proxy's address: that of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, but for what NO_PROXY names.
ENVIRONMENT = "environment"
PROXY_FORM = "http://proxy:3128 or http://user:password@proxy:3128"
REDIS_FORMS = (
    "redis://host:6379/0, rediss://..., unix:///path/to.sock, redis+sentinel://host1:26379,host2:26379/name or "
    "redis+cluster://host1:6379,host2:6379"
)

_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_TLS = ("true", "false", "skip-verify", "preferred")
_TIMEOUTS = ("timeout", "readTimeout", "writeTimeout")
_QUERY = ("charset", "tls", *_TIMEOUTS, "unix_socket")
#: Parameters that only concern the Go driver's data types and buffers.
_GO_ONLY = (
    "allowAllFiles", "allowCleartextPasswords", "allowFallbackToPlaintext", "allowNativePasswords", "allowOldPasswords",
    "checkConnLiveness", "clientFoundRows", "collation", "columnsWithAlias", "compress", "connectionAttributes",
    "interpolateParams", "loc", "maxAllowedPacket", "multiStatements", "parseTime", "rejectReadOnly", "serverPubKey",
    "timeTruncate",
)  # fmt: skip
_GO_DSN = re.compile(r"(?:(?P<login>.*)@)?(?:(?P<net>[^(@]*)(?:\((?P<address>[^)]*)\))?)?", re.DOTALL)


def check_database_url(url: str) -> str:
    """Return a URL of a supported database, else raise ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("sqlite needs three slashes before a relative path and four before an absolute one")
        if parts.path[1:] in ("", ":memory:"):
            raise ValueError("sqlite needs a file, as several processes share it")
        if parts.query:
            raise ValueError("sqlite takes no parameters")
        return url
    if parts.scheme != "mysql":
        raise ValueError("unknown scheme")
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    _check_port(parts.netloc)
    if not parts.hostname and "unix_socket" not in query:
        raise ValueError("no host")
    if "/" in parts.path[1:] or not parts.path[1:]:
        raise ValueError("no database name after the host")
    for name in query:
        if name not in _QUERY:
            raise ValueError(f"unknown parameter {name}, known are {', '.join(_QUERY)}")
    if query.get("tls", "true") not in _TLS:
        raise ValueError(f"tls is one of {', '.join(_TLS)}")
    for name in _TIMEOUTS:
        if name in query:
            parse_duration(query[name])
    return url


def database_url_of_go_dsn(dsn: str) -> str:
    """Turn the Go driver's `user:pw@tcp(host:port)/db?params` into a mysql:// URL; ValueError."""
    before, slash, after = dsn.rpartition("/")
    if not slash:
        raise ValueError("no / before the database name")
    found = _GO_DSN.fullmatch(before)
    if found is None:
        raise ValueError("not user:password@protocol(address)")
    user, _, password = (found["login"] or "").partition(":")
    name, _, parameters = after.partition("?")
    if not name:
        raise ValueError("no database name after the /")
    query: dict[str, str] = {"charset": "utf8mb4"}
    for key, value in parse_qsl(parameters):
        if key == "charset":
            query["charset"] = value.split(",")[0]
        elif key == "tls":
            query["tls"] = {"1": "true", "0": "false"}.get(value, value.lower())
        elif key in _TIMEOUTS:
            query[key] = f"{parse_duration(value):g}"
    net, address = found["net"] or "tcp", found["address"] or ""
    if net == "unix":
        query["unix_socket"] = address or "/tmp/mysql.sock"  # noqa: S108 (the Go driver's default)
        host = "localhost"
    elif net in ("tcp", "tcp4", "tcp6"):
        host = _with_port(address or "127.0.0.1", 3306)
    else:
        raise ValueError("the protocol is neither tcp nor unix")
    login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    at = "@" if login else ""
    return check_database_url(f"mysql://{login}{at}{host}/{quote(unquote(name), safe='')}?{urlencode(query)}")


def ignored_parameters(dsn: str) -> list[str]:
    """Name the parameters of a Go DSN that change the session in Go and have no effect here."""
    names = [key for key, _ in parse_qsl(dsn.rpartition("/")[2].partition("?")[2], keep_blank_values=True)]
    return [name for name in names if name not in _GO_ONLY and name not in _QUERY]


def check_redis_url(url: str) -> str:
    """Return the URL when scheme, hosts and database number are valid, else raise ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if len(parts.path) < 2:
            raise ValueError("no path to the socket")
        return url
    if parts.scheme not in ("redis", "rediss", "redis+sentinel", "redis+cluster"):
        raise ValueError("unknown scheme")
    if len(redis_hosts(url)) > 1 and parts.scheme in ("redis", "rediss"):
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?[0-9]*", parts.path, re.ASCII):
        raise ValueError("what follows the host is not a database number")
    if parts.scheme == "redis+sentinel" and not re.fullmatch(r"/[^/]+(?:/[0-9]*)?", parts.path, re.ASCII):
        raise ValueError("after the hosts stand the name of the service and, if not 0, /database number")
    if parts.scheme == "redis+cluster" and parts.path not in ("", "/", "/0"):
        raise ValueError("a cluster has no databases to choose from")
    for name in parse_qs(parts.query, keep_blank_values=True):
        if parts.scheme == "redis+cluster" or (parts.scheme == "redis+sentinel" and name not in _SENTINEL_LOGIN):
            known = ", ".join(_SENTINEL_LOGIN) if parts.scheme == "redis+sentinel" else "none"
            raise ValueError(f"unknown parameter {name[:40]}, known are {known}")
    return url


def redis_hosts(url: str) -> list[tuple[str, int]]:
    """Return the hosts of a redis URL with their ports; ValueError."""
    parts = urlsplit(url)
    usual = 26379 if parts.scheme == "redis+sentinel" else 6379
    hosts = []
    for host in parts.netloc.rpartition("@")[2].split(","):
        if not host or host.startswith(":"):
            raise ValueError("no host")
        _check_port(host)
        name, _, port = _with_port(host, usual).rpartition(":")
        hosts.append((name.strip("[]"), int(port)))
    return hosts


def with_login(url: str, username: str, password: str) -> str:
    """Put user and password into a URL; a URL with a login stays unchanged."""
    if not (username or password) or has_login(url):
        return url
    login = quote(username, safe="") + (":" + quote(password, safe="") if password else "")
    return url.replace("://", f"://{login}@", 1)


def has_login(url: str) -> bool:
    return "@" in urlsplit(url).netloc


def check_address(address: str) -> str:
    """Return `host:port`, with Go's `:6379` and a bare host completed; ValueError."""
    if not re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::[0-9]+)?", address, re.ASCII) or not address:
        raise ValueError("not host:port")
    if address.startswith(":"):
        address = f"localhost{address}"
    _check_port(address)
    return _with_port(address, 6379)


def check_web_url(url: str) -> str:
    """Return an http(s) URL of the operator without its trailing slash; ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("neither http:// nor https://")
    if not parts.hostname:
        raise ValueError("no host")
    if parts.query or parts.fragment:
        raise ValueError("a query or fragment cannot be extended with a path")
    _check_port(parts.netloc)
    return url.rstrip("/")


def check_api_url(url: str) -> str:
    """Return the http(s) URL of an API, whose query (`?api-version=...`) every call keeps; ValueError."""
    address, mark, query = url.partition("?")
    if "#" in query:
        raise ValueError("a fragment cannot be sent")
    return f"{check_web_url(address)}{mark}{query}"


def check_proxy_url(url: str) -> str:
    """Return the URL of an HTTP proxy; ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("not the address of an HTTP proxy")
    _check_port(parts.netloc)
    return url


def check_proxy(proxy: str) -> str:
    """Return the URL of an HTTP proxy, or `environment`; ValueError."""
    return proxy if proxy == ENVIRONMENT else check_proxy_url(proxy)


def _with_port(address: str, port: int) -> str:
    return address if ":" in address.rpartition("]")[2] else f"{address}:{port}"


def _check_port(host: str) -> None:
    port = re.search(r":([^:\]]*)$", host.rpartition("@")[2])
    if port and not (re.fullmatch(r"[0-9]{1,5}", port[1], re.ASCII) and 1 <= int(port[1]) <= 65535):
        raise ValueError("the port is not a number from 1 to 65535")
