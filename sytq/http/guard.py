"""The SSRF guard: which URLs and addresses a caller may make this service reach.

It neither resolves nor connects: the client's resolver checks a name's addresses when it connects, so the checked
address is the address in use.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

from yarl import URL

from sytq.config.patterns import UrlPattern, normal_host
from sytq.errors import OutboundRefused

Address = IPv4Address | IPv6Address

# All of IANA's special-purpose registries, globally reachable or not: nobody receives a webhook on an anycast service
# address. `ipaddress.is_global` is wrong on many of these.
_SPECIAL_IPV4 = [
    (IPv4Network(network), meaning)
    for network, meaning in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by carriers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud platform's internal service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112 anycast"),
        ("192.52.193.0/24", "AMT anycast"),
        ("192.88.99.0/24", "6to4 relay anycast"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112 anycast"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
]
_PUBLIC_IPV6 = IPv6Network("2000::/3")
_SPECIAL_IPV6 = [
    (IPv6Network(network), meaning)
    for network, meaning in (
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "documentation"),
        ("2620:4f:8000::/48", "AS112 anycast"),
        ("3fff::/20", "documentation"),
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = 0x5EFE  # bits 32 to 63, under the universal/local bit, of an interface id that carries an IPv4

_PARTS = re.compile(r"(?P<scheme>[^:/?#]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<mark>\??)(?P<query>[^#]*)")
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@%]+)(?::([0-9]{0,5}))?")
_NUMERIC_LABEL = re.compile(r"0x[0-9a-f]*|[0-9]+")
_NAME = re.compile(r"(?=.{1,254}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.(?!\.)[a-z0-9_-]{1,63})*\.?")
_MAX_AUTHORITY = 600  # characters before IDNA, whose cost grows faster than its input


@functools.lru_cache(1024)
def parse_url(url: str) -> URL:
    """Parse a URL. Raises OutboundRefused when the syntax leaves any doubt about the target.

    The client connects to the result: no second parser sees the text.
    """
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if not plain and any(c == "\\" or unicodedata.category(c) in ("Cc", "Cs", "Zs", "Zl", "Zp") for c in url):
        raise OutboundRefused("the URL must not contain spaces, control characters or backslashes")
    parts = _PARTS.match(url)
    if parts is None or parts["scheme"].lower() not in ("http", "https"):
        raise OutboundRefused("the URL must start with http:// or https://")
    authority = parts["authority"]
    if "@" in authority:
        raise OutboundRefused("the URL must not contain a user name or password; send a header instead")
    if not authority:
        raise OutboundRefused("the URL has no host")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or len(authority) > _MAX_AUTHORITY:
        raise OutboundRefused("the URL has no valid host and port")
    if match[2] and not 1 <= int(match[2]) <= 65535:
        raise OutboundRefused(f"the URL's port {match[2]} is not between 1 and 65535")
    try:
        parsed = as_given(url)
        host = parsed.raw_host or ""
    except ValueError:
        raise OutboundRefused("the URL has no valid host") from None
    if match[1].startswith("["):
        _literal(host)
    elif _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # Resolvers read 127.1, 0x7f000001, 017700000001 and 2130706433 as 127.0.0.1; only that form is accepted.
        if not isinstance(_literal(host), IPv4Address):
            raise OutboundRefused("the URL has no valid IPv4 address as host")
    elif not _NAME.fullmatch(host):
        raise OutboundRefused("the URL has no valid host name")
    return parsed


def as_given(url: str) -> URL:
    """Parse a URL for the client: the host in its canonical form, path and query byte for byte. Raises ValueError.

    Only what cannot stand in a request line, anything but visible ASCII, is percent-encoded.
    """
    parts = _PARTS.match(url)
    if parts is None:
        return URL(url)
    origin = URL(f"{parts['scheme']}://{parts['authority']}")
    path, mark, query = (quote(parts["path"], _VISIBLE) or "/"), parts["mark"], quote(parts["query"], _VISIBLE)
    return URL.build(
        scheme=origin.scheme,
        authority=origin.raw_authority,
        path=path if query else path + mark,  # yarl drops a question mark without a query
        query_string=query,
        encoded=True,
    )


class Guard:
    """Decides where calls with a caller's URL may go: public addresses, and those the operator listed.

    `allow_networks` are CIDRs, `allow_hosts` exact host names (with any address). The other options restrict, also the
    allowed: only `schemes`, `ports` and `only_hosts` (when not empty) pass, `deny_hosts` and `deny_networks` never.
    `only_hosts` and `deny_hosts` may be patterns such as `*.example.org`.
    """

    def __init__(
        self,
        allow_networks: Iterable[str | IPv4Network | IPv6Network] = (),
        allow_hosts: Iterable[str] = (),
        *,
        schemes: Iterable[str] = ("http", "https"),
        ports: Iterable[int] = (),
        only_hosts: Iterable[str] = (),
        deny_hosts: Iterable[str] = (),
        deny_networks: Iterable[str | IPv4Network | IPv6Network] = (),
    ) -> None:
        self._networks = [ip_network(network, strict=False) for network in allow_networks]
        self._hosts = frozenset(normal_host(host) for host in allow_hosts)
        self._schemes = frozenset(schemes)
        self._ports = frozenset(ports)
        self._only = [UrlPattern.parse(host) for host in only_hosts]
        self._denied = [UrlPattern.parse(host) for host in deny_hosts]
        self._denied_networks = [ip_network(network, strict=False) for network in deny_networks]
        # The same hosts are checked again and again; refusals are not cached.
        self._judged = functools.lru_cache(1024)(self._judge)

    def check_url(self, url: str) -> URL:
        """Parse and check a URL. Raises OutboundRefused. Names are checked only when connecting."""
        parsed = parse_url(url)
        if parsed.scheme not in self._schemes:
            raise OutboundRefused(f"{parsed.scheme} is not one of outbound.schemes")
        if self._ports and parsed.port not in self._ports:
            raise OutboundRefused(f"port {parsed.port} is not one of outbound.ports")
        self._judged(parsed.raw_host or "")
        return parsed

    def _judge(self, host: str) -> None:
        if self._only and not any(pattern.matches_host(host) for pattern in self._only):
            raise OutboundRefused(f"{host} is not one of outbound.only_hosts")
        if any(pattern.matches_host(host) for pattern in self._denied):
            raise OutboundRefused(f"{host} is one of outbound.deny_hosts")
        try:
            address = ip_address(host)
        except ValueError:
            name = normal_host(host)
            loopback = name == "localhost" or name.endswith(".localhost")
            if loopback and not (self.is_allowed(host, "127.0.0.1") or self.is_allowed(host, "::1")):
                raise OutboundRefused(f"{host} is not a public address (loopback)") from None
        else:
            self.check(host, str(address))

    def is_allowed(self, host: str, ip: str) -> bool:
        """Whether the client may connect to `host` at the address `ip`."""
        try:
            self.check(host, ip)
        except OutboundRefused:
            return False
        return True

    def check(self, host: str, ip: str) -> None:
        """Raise OutboundRefused with the reason when `host` at the address `ip` is not allowed."""
        named = normal_host(host)
        what = ip if named == ip else f"{host} is {ip}, which"
        address = _literal(ip)
        ends = _unwrap(address)
        if any(_among(end, self._denied_networks) for end in (address, *ends)):
            raise OutboundRefused(f"{what} is in one of outbound.deny_networks")
        if named in self._hosts or _among(address, self._networks):
            return
        for inner in ends:
            meaning = _special(inner)
            if meaning and not _among(inner, self._networks):
                raise OutboundRefused(
                    f"{what} is not a public address ({meaning}); only outbound.allow_networks or "
                    "outbound.allow_hosts can permit it"
                )


def _among(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)


def _literal(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise OutboundRefused("the host is not an IP address in its usual form, such as 192.0.2.1") from None


def _unwrap(address: Address) -> tuple[Address, ...]:
    """Return the addresses that a packet to this address reaches: embedded addresses, or the address itself."""
    if isinstance(address, IPv4Address):
        return (address,)
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None or address in _NAT64:
        return (low,)
    if address in _6TO4 and address.sixtofour is not None:
        return (address.sixtofour,)
    if address in _TEREDO and address.teredo is not None:
        return address.teredo
    if address in _PUBLIC_IPV6 and (int(address) >> 32) & 0xFDFFFFFF == _ISATAP:
        return (address, low)
    return (address,)


def _special(address: Address) -> str | None:
    """Return why this address is not public, or None."""
    if isinstance(address, IPv4Address):
        return next((meaning for network, meaning in _SPECIAL_IPV4 if address in network), None)
    if address not in _PUBLIC_IPV6:
        return "outside 2000::/3"
    return next((meaning for network, meaning in _SPECIAL_IPV6 if address in network), None)
