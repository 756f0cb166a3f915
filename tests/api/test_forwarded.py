"""X-Forwarded-* count from trusted proxies alone, and only as far as those vouch for them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from sytq.api.forwarded import UNKNOWN, Forwarded, names_remote_client

TRUSTED = [ipaddress.ip_network(text) for text in ("127.0.0.1", "10.0.0.0/8", "fd00::/8")]


def seen(peer: str | None, base_path: str = "", path: str = "/dashboard", **fields: str | list[str]) -> dict[str, Any]:
    """The scope after a request with these X-Forwarded-* fields."""
    pairs = [(name, value) for name, each in fields.items() for value in ([each] if isinstance(each, str) else each)]
    headers = [(f"x-forwarded-{name.strip('_')}".encode(), value.encode("latin-1")) for name, value in pairs]
    client = None if peer is None else (peer, 4711)
    scope = {"client": client, "scheme": "http", "root_path": "", "path": path}
    scope["headers"] = [(b"host", b"inner:8080"), *headers]
    Forwarded(TRUSTED, base_path).apply(scope)
    return scope


def host_of(scope: dict[str, Any]) -> bytes:
    [host] = [value for name, value in scope["headers"] if name == b"host"]
    assert isinstance(host, bytes)
    return host


EVERYTHING = {"for_": "203.0.113.9", "proto": "https", "host": "ops.example.org", "prefix": "/ops/sytq"}


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "fd00::1", None])
def test_a_trusted_proxys_fields_replace_what_it_hides(peer: str | None) -> None:
    scope = seen(peer, **EVERYTHING)
    assert scope["client"][0] == "203.0.113.9"
    assert (scope["scheme"], host_of(scope), scope["root_path"]) == ("https", b"ops.example.org", "/ops/sytq")


@pytest.mark.parametrize("peer", ["127.0.0.2", "192.0.2.1", "::1", "fe80::1%eth0"])
def test_other_peers_fields_change_nothing(peer: str) -> None:
    scope = seen(peer, **EVERYTHING)
    assert (scope["client"], scope["scheme"], scope["root_path"]) == ((peer, 4711), "http", "")
    assert host_of(scope) == b"inner:8080"


def test_no_proxy_is_trusted_by_default() -> None:
    scope = {"client": ("127.0.0.1", 1), "scheme": "http", "root_path": "", "path": "/"}
    scope["headers"] = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")]
    Forwarded([], "").apply(scope)
    assert (scope["client"], scope["scheme"]) == (("127.0.0.1", 1), "http")


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),  # the first is what the client made up
        ("203.0.113.9, 10.0.0.7", "203.0.113.9"),
        (["127.0.0.1", "203.0.113.9"], "203.0.113.9"),  # two fields are one list
        ("10.0.0.7", "10.0.0.7"),
        ("203.0.113.9:1234", "203.0.113.9"),
        ("[2001:db8::1]:1234", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, unknown", UNKNOWN),
        ("", UNKNOWN),
        ("127.0.0.1,", UNKNOWN),
        ("localhost", UNKNOWN),
        ("127.1", UNKNOWN),
        (", ".join(["127.0.0.1"] * 1000), "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(said: str | list[str], client: str) -> None:
    assert seen("127.0.0.1", for_=said)["client"][0] == client


@pytest.mark.parametrize("proto", ["", "ftp", "https, gopher", "https,", "HTTPS\t;"])
def test_a_scheme_that_is_none_is_ignored(proto: str) -> None:
    assert seen("127.0.0.1", proto=proto)["scheme"] == "http"


@pytest.mark.parametrize(
    "host", ["", "a b", "evil.example/", "user@evil.example", "a,", "x" * 300, "a\x00b", "[::1", "ü"]
)
def test_a_host_that_is_none_is_ignored(host: str) -> None:
    assert host_of(seen("127.0.0.1", host=host)) == b"inner:8080"


@pytest.mark.parametrize("host", ["a.example", "evil.example, a.example", "a.example:8443", "[::1]:8443"])
def test_the_nearest_proxys_host_counts(host: str) -> None:
    assert host_of(seen("127.0.0.1", host=host)) == host.rpartition(", ")[2].encode()


@pytest.mark.parametrize(
    "prefix",
    [
        "//evil.example",
        "/\\evil",
        "evil",
        "/a/../b",
        "/a//b",
        "/a b",
        "/%2e",
        "/a?b",
        "/a#b",
        "/a, /b",
        "/" + "a" * 300,
    ],
)
def test_a_prefix_that_is_no_path_is_ignored(prefix: str) -> None:
    assert seen("127.0.0.1", prefix=prefix)["root_path"] == ""


def test_the_configured_base_path_wins_and_is_removed_where_the_proxy_keeps_it() -> None:
    assert seen("192.0.2.1", "/ops/sytq")["root_path"] == "/ops/sytq"
    assert seen("127.0.0.1", "/ops/sytq", prefix="/evil")["root_path"] == "/ops/sytq"
    for path, inner in (
        ("/ops/sytq/dashboard/tasks", "/dashboard/tasks"),
        ("/ops/sytq", "/"),
        ("/dashboard", "/dashboard"),
        ("/ops/sytqs", "/ops/sytqs"),
    ):
        assert seen("192.0.2.1", "/ops/sytq", path)["path"] == inner
    assert seen("127.0.0.1", path="/x/dashboard", prefix="/x/")["path"] == "/dashboard"


@pytest.mark.parametrize(
    ("values", "remote"),
    [
        ([], False),
        (["127.0.0.1"], False),
        (["::1, 127.0.0.9"], False),
        (["203.0.113.9"], True),
        (["127.0.0.1", "203.0.113.9"], True),
        (["unknown"], True),
    ],
)
def test_a_field_that_names_a_remote_client_is_recognised(values: list[str], remote: bool) -> None:
    assert names_remote_client([(b"x-forwarded-for", value.encode()) for value in values]) is remote
