"""The URLs that callers may name, and the addresses that may be connected to."""

from __future__ import annotations

import pytest
from yarl import URL

from sytq.errors import OutboundRefused
from sytq.http.guard import Guard, parse_url

GOOD = [
    "http://example.com",
    "https://example.com/",
    "HTTPS://EXAMPLE.COM/Path?q=1#part",
    "http://example.com:1/",
    "http://example.com:65535/",
    "http://example.com:00080/",
    "http://example.com:/",
    "http://example.com./",
    "http://my_service:8080/hook",
    "http://a-b.example/?u=user@host",
    "http://example.com/a@b:c",
    "http://bücher.example/",
    "http://xn--bcher-kva.example/",
    "http://例え.jp/路径?查询=值",
    "http://straße.example/",
    "http://1a.example/",
    "http://0xabc.example/",
    "http://127.0.0.1.example.com/",
    "http://8.8.8.8/",
    "http://8.8.8.8:8443/x",
    "http://1.1.1.1",
    "http://100.63.255.255/",
    "http://100.128.0.0/",
    "http://172.15.255.255/",
    "http://172.32.0.0/",
    "http://192.0.1.1/",
    "http://192.167.255.255/",
    "http://198.17.255.255/",
    "http://198.20.0.0/",
    "http://223.255.255.255/",
    "http://[2606:4700:4700::1111]/",
    "http://[2001:4860:4860::8888]:443/",
    "http://[2001:200::1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[::ffff:808:808]/",
    "http://[64:ff9b::8.8.8.8]/",
    "http://[64:ff9b::808:808]/",
    "http://[2002:808:808::1]/",
    "http://[2001:0:808:808:0:ffff:f7f7:f7f7]/",
]

BAD_SYNTAX = [
    "",
    "example.com",
    "//example.com/",
    "/path",
    "http:",
    "http:/example.com",
    "http:example.com",
    "http://",
    "http:///path",
    "http://:80/",
    "http://?q",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript://example.com/",
    "ws://example.com/",
    "unix:///run/redis.sock",
    "http+unix://%2Frun%2Fx/",
    " http://example.com/",
    "http://example.com/ ",
    "http://exa mple.com/",
    "http://example.com/a b",
    "http://example.com/\r\nX: y",
    "http://example.com/\tx",
    "http://example.com\x00.evil.example/",
    "http://example.com/\x00",
    "http://example.com\x7f/",
    "http://example.com/\u0085",
    "http://example.com/\u2028",
    "http://example.com/\u00a0",
    "http://example.com/\ud800",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\.example.com/",
    "http:\\\\example.com/",
    "http://user@example.com/",
    "http://user:pass@example.com/",
    "http://@example.com/",
    "http://:@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1:80@example.com/",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:999999/",
    "http://example.com:-1/",
    "http://example.com:+80/",
    "http://example.com:8_0/",
    "http://example.com:８０/",
    "http://example.com:80:80/",
    "http://example.com:http/",
    "http://exam%70le.com/",
    "http://%31%32%37.0.0.1/",
    "http://127%2e0%2e0%2e1/",
    "http://a..example/",
    "http://.example/",
    "http://example.com../",
    "http://./",
    "http://-bad.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 130 + "example/",
    "http://" + "ä" * 5000 + "/",
    "http://a,b/",
    "http://a;b/",
    "http://a'b/",
    "http://a*b/",
    "http://(a)/",
    "http://exa\u200bmple.com/",
    "http://exa\u00admple.com/",
    "http://℀.example/",
    "http://[::1/",
    "http://::1]/",
    "http://::1/",
    "http://[]/",
    "http://[:::1]/",
    "http://[1.2.3.4]/",
    "http://[example.com]/",
    "http://[v1.fe80]/",
    "http://[::1]extra/",
    "http://x[::1]/",
    "http://[::1%25lo]/",
    "http://[fe80::1%eth0]/",
    "http://[fe80::1%25eth0]:80/",
    "http://[::ffff:127.1]/",
    "http://[fe80::1%25]/",
    "http://127.0.0.1%23@example.com/",
    "http://example.com%2f@127.0.0.1/",
    "http://example.com&@127.0.0.1/",
    "http:\\\\127.0.0.1\\@example.com/",
    "http:///example.com@127.0.0.1/",
    "http://example.com:80\\@127.0.0.1:8080/",
]

BAD_ADDRESS = [
    "http://localhost/",
    "http://LOCALHOST:8080/",
    "http://localhost./",
    "http://a.localhost/",
    "http://ｌｏｃａｌｈｏｓｔ/",
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://127.0.0.1/@example.com/../",
    "http://127.0.0.1:80#example.com",
    "http://127.255.255.254/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://2130706433/",
    "http://4294967295/",
    "http://4294967296/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0X7F.1/",
    "http://127.0.0.0x1/",
    "http://0x/",
    "http://127.0.0.1.0/",
    "http://256.1.1.1/",
    "http://1.2.3.256/",
    "http://08.8.8.8/",
    "http://010.8.8.8/",
    "http://example.1/",
    "http://134744072/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://0.1.2.3/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.0.0.1/",
    "http://192.0.0.9/",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://192.31.196.1/",
    "http://192.52.193.1/",
    "http://192.88.99.1/",
    "http://192.168.1.1/",
    "http://192.175.48.1/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::7f00:1]/",
    "http://[::8.8.8.8]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:10.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:0:8.8.8.8]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b:1::8.8.8.8]/",
    "http://[64:ff9b:0:0:1::8.8.8.8]/",
    "http://[100::1]/",
    "http://[100:0:0:1::1]/",
    "http://[2001::1]/",
    "http://[2001:0:4136:e378:8000:63bf:f5ff:fffe]/",
    "http://[2001:0:7f00:1:8000:63bf:3fff:fdd2]/",
    "http://[2001:2::1]/",
    "http://[2001:3::1]/",
    "http://[2001:4:112::1]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[2001:30::1]/",
    "http://[2001:1ff::1]/",
    "http://[2001:db8::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a00:1::1]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2002:c0a8:101::1]/",
    "http://[2620:4f:8000::1]/",
    "http://[2606:4700::5efe:10.0.0.1]/",
    "http://[2606:4700::200:5efe:192.168.0.1]/",
    "http://[3fff::1]/",
    "http://[3fff:fff::1]/",
    "http://[4000::1]/",
    "http://[5f00::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
]


@pytest.mark.parametrize("url", GOOD)
def test_a_public_url_in_a_plain_form_is_accepted(url: str) -> None:
    assert Guard().check_url(url).raw_host


@pytest.mark.parametrize("url", GOOD)
def test_keeping_the_bytes_of_a_path_changes_nothing_in_the_target(url: str) -> None:
    kept, whole = parse_url(url), URL(url)
    assert (kept.scheme, kept.raw_host, kept.port) == (whole.scheme, whole.raw_host, whole.port)
    assert URL(str(kept)).raw_path_qs == whole.raw_path_qs


@pytest.mark.parametrize("url", BAD_SYNTAX, ids=ascii)
def test_malformed_or_ambiguous_url_is_refused(url: str) -> None:
    with pytest.raises(OutboundRefused):
        parse_url(url)


@pytest.mark.parametrize("url", BAD_ADDRESS, ids=ascii)
def test_url_with_a_special_address_is_refused(url: str) -> None:
    with pytest.raises(OutboundRefused):
        Guard().check_url(url)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://BÜCHER.example/", "xn--bcher-kva.example"),
        ("http://Example.COM/", "example.com"),
        ("http://8。8。8。8/", "8.8.8.8"),
        ("http://١٢٧.٠.٠.١/", "xn--9hbcp.xn--8hb.xn--8hb.xn--9hb"),
        ("http://[2606:4700:0:0::1111]/", "2606:4700::1111"),
    ],
)
def test_host_is_normalized_before_it_is_checked(url: str, host: str) -> None:
    assert Guard().check_url(url).raw_host == host


def test_a_refusal_never_repeats_credentials() -> None:
    with pytest.raises(OutboundRefused) as refused:
        parse_url("https://admin:hunter2@example.com/?token=abc")
    assert "hunter2" not in str(refused.value) and "abc" not in str(refused.value)


def test_refusal_names_the_address_and_the_setting_to_change() -> None:
    with pytest.raises(OutboundRefused, match=r"10\.0\.0\.1 .*private.*outbound\.allow_networks"):
        Guard().check_url("http://10.0.0.1/")
    with pytest.raises(OutboundRefused, match=r"db\.example is 10\.0\.0\.1, which is not a public address"):
        Guard().check("db.example", "10.0.0.1")


@pytest.mark.parametrize(
    ("ip", "allowed"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("64:ff9b::10.1.2.3", True),
        ("fd12::1", True),
        ("11.0.0.0", True),
        ("192.168.0.1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("fd13::1", False),
        ("fe80::1%eth0", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_allow_networks_adds_only_the_listed_networks(ip: str, allowed: bool) -> None:
    assert Guard(["10.0.0.0/8", "fd12::/16"]).is_allowed("some.example", ip) is allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hooks.internal", True),
        ("HOOKS.internal.", True),
        ("xn--bcher-kva.example", True),
        ("not-hooks.internal", False),
        ("hooks.internal.example", False),
        ("a.hooks.internal", False),
    ],
)
def test_allow_hosts_adds_only_the_listed_hosts(host: str, allowed: bool) -> None:
    guard = Guard(allow_hosts=["Hooks.Internal", "bücher.example"])
    assert guard.is_allowed(host, "10.0.0.1") is allowed


def test_localhost_is_allowed_when_loopback_is_allowed() -> None:
    for guard in (Guard(["127.0.0.0/8"]), Guard(["::1/128"]), Guard(allow_hosts=["localhost"])):
        assert guard.check_url("http://localhost:8080/").host == "localhost"


def test_allowed_network_still_refuses_unusual_urls() -> None:
    for url in ("http://127.1/", "http://2130706433/", "http://u:p@127.0.0.1/"):
        with pytest.raises(OutboundRefused):
            Guard(["0.0.0.0/0"]).check_url(url)


NARROW = Guard(
    ["10.0.0.0/8"],
    ["inside.example"],
    schemes=["https"],
    ports=[443, 8443],
    only_hosts=["*.example.org", "inside.example", "9.9.9.9", "10.1.1.1", "10.2.2.2"],
    deny_hosts=["*.secret.example.org", "closed.example.org"],
    deny_networks=["10.2.0.0/16", "9.0.0.0/8", "2606:4700::/32"],
)


@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        ("https://a.example.org/", None),
        ("https://a.example.org:8443/", None),
        ("https://inside.example/", None),
        ("https://10.1.1.1/", None),
        ("http://a.example.org/", "outbound.schemes"),
        ("https://a.example.org:80/", "outbound.ports"),
        ("https://a.example.org:22/", "outbound.ports"),
        ("https://example.org/", "outbound.only_hosts"),
        ("https://8.8.8.8/", "outbound.only_hosts"),
        ("https://a.example.org.evil.example/", "outbound.only_hosts"),
        ("https://closed.example.org/", "outbound.deny_hosts"),
        ("https://CLOSED.example.org./", "outbound.deny_hosts"),
        ("https://x.y.secret.example.org/", "outbound.deny_hosts"),
        ("https://9.9.9.9/", "outbound.deny_networks"),
        ("https://10.2.2.2/", "outbound.deny_networks"),
    ],
)
def test_scheme_port_and_host_lists_restrict_urls(url: str, refusal: str | None) -> None:
    if refusal is None:
        assert NARROW.check_url(url)
        return
    with pytest.raises(OutboundRefused, match=refusal.replace(".", r"\.")):
        NARROW.check_url(url)


@pytest.mark.parametrize(
    ("ip", "allowed"),
    [
        ("8.8.8.8", True),
        ("9.1.2.3", False),
        ("::ffff:9.1.2.3", False),
        ("64:ff9b::9.1.2.3", False),
        ("2002:901:203::1", False),
        ("2606:4700::1", False),
        ("10.1.1.1", True),
        ("10.2.1.1", False),
    ],
)
def test_denied_network_is_refused_in_every_form_and_for_allowed_hosts(ip: str, allowed: bool) -> None:
    assert NARROW.is_allowed("a.example.org", ip) is allowed
    if not allowed:
        assert not NARROW.is_allowed("inside.example", ip)
