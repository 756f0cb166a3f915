"""The ways out to a provider: proxies, private certificate authorities, and what is said when they fail."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm.answer import ChatError
from sytq_plugins.llm.chat import complete

from sytq import Waiting
from sytq.config import load
from sytq.errors import ConfigError
from sytq.http.client import Client
from sytq.http.guard import Guard
from sytq.http.proxies import environment_proxy
from tests.certificates import authority, needs_openssl, server
from tests.connect_proxy import Proxy
from tests.plugins.llm.desk import Desk
from tests.plugins.llm.test_chat import REQUEST, configured, new_answer
from tests.provider import REPORT, ScriptedProvider

VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedProvider]:
    """A provider with a certificate of a private authority, which SSL_CERT_FILE names."""
    ca = authority(tmp_path)
    made = ScriptedProvider(server(tmp_path, ca).context())
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(base_url: str, proxy: Proxy | None = None, setting: str = "http://{}") -> str | ChatError:
    """The answer of a provider behind the proxy, or why there is none; `{}` in the setting is the proxy's address."""

    async def call(address: str = "") -> str:
        client = Client(Guard())
        try:
            given = {"proxy": setting.format(address)} if proxy or "{}" not in setting else {}
            reply = await complete(client, configured(base_url, **given), REQUEST, new_answer())
            return reply["content"]
        finally:
            await client.close()

    async def main() -> str:
        if proxy is None:
            return await call()
        async with proxy.serving() as address:
            return await call(address)

    try:
        return asyncio.run(main())
    except ChatError as error:
        return error


def kind(outcome: str | ChatError, words: str) -> str:
    assert isinstance(outcome, ChatError) and words in str(outcome), outcome
    return outcome.kind


@needs_openssl
def test_private_authority_and_proxy_work_together(secure: ScriptedProvider) -> None:
    assert ask(secure.base_url) == REPORT
    proxy = Proxy(login="me:pass")
    assert ask(secure.base_url, proxy, "http://me:pass@{}") == REPORT
    assert proxy.asked == [f"CONNECT localhost:{secure.port} HTTP/1.1"]


def test_provider_without_tls_is_asked_through_the_proxy(provider: ScriptedProvider) -> None:
    proxy = Proxy()
    assert ask(provider.base_url, proxy) == REPORT
    assert proxy.asked == [f"POST {provider.base_url}/chat/completions HTTP/1.1"]


def test_environment_names_the_proxy_only_on_request(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked(**environ: str) -> int:
        proxy, client = Proxy(), Client(Guard())
        async with proxy.serving() as address:
            for name in VARIABLES:
                monkeypatch.delenv(name, raising=False)
            for name, value in environ.items():
                monkeypatch.setenv(name, value.format(address))
            try:
                for setting in ({}, {"proxy": "environment"}):
                    await complete(client, configured(provider.base_url, **setting), REQUEST, new_answer())
            finally:
                await client.close()
        return len(proxy.asked)

    assert asyncio.run(asked(HTTP_PROXY="http://{}")) == 1
    assert asyncio.run(asked(ALL_PROXY="{}")) == 1  # without a scheme, as curl takes it
    assert asyncio.run(asked(HTTPS_PROXY="http://{}")) == 0
    for excluded in ("127.0.0.1", "*", "127.0.0.0/8", "example.org,127.0.0.1"):
        assert asyncio.run(asked(HTTP_PROXY="http://{}", NO_PROXY=excluded)) == 0


@pytest.mark.parametrize(
    ("excluded", "host", "is_excluded"),
    [
        *((entries, "llm.corp.org", True) for entries in (".corp.org", "*.corp.org", "CORP.org.", "a, corp.org")),
        *((entries, "llm.corp.org", True) for entries in ("llm.corp.org:443", "corp.org:443", "a,*", "http://a,.org")),
        *((entries, "llm.corp.org", False) for entries in ("", ",,", "rp.org", "llm.corp.org:8443", "llm", "*.b.org")),
        ("corp.org", "corp.org.:8443", True),
        ("corp.org:443", "corp.org:8443", False),
        *((entries, "10.1.2.3:8000", True) for entries in ("10.1.2.3:8000", "10.1.2.3", "10.0.0.0/8", "10.9.9.9/8")),
        *((entries, "10.1.2.3", False) for entries in ("10.1.2.3:8000", "10.*", "11.0.0.0/8", "fd00::/8", "/8")),
        *((entries, "[fd00::1]:8000", True) for entries in ("fd00::1", "[fd00::1]", "[FD00:0::1]:8000", "fd00::/8")),
    ],
)  # fmt: skip
def test_no_proxy_is_read_in_all_its_forms(
    monkeypatch: pytest.MonkeyPatch, excluded: str, host: str, is_excluded: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", " proxy:3128\t")
    monkeypatch.setenv("NO_PROXY", excluded)
    assert environment_proxy(f"https://{host}/v1") == (None if is_excluded else "http://proxy:3128")


@needs_openssl
def test_proxy_that_fails_is_told_from_the_provider(
    secure: ScriptedProvider, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (secure.base_url, provider.base_url):
        assert kind(ask(url, Proxy(login="me:pass")), "HTTP 407") == "proxy"
        assert kind(ask(url, setting="http://127.0.0.1:1"), "the outbound proxy cannot be used") == "proxy"
    assert (
        kind(ask(secure.base_url, Proxy(refuses=403)), "the proxy does not connect to the provider: HTTP 403")
        == "proxy"
    )
    assert (
        kind(ask(secure.base_url, Proxy(refuses=502)), "the proxy does not connect to the provider: HTTP 502")
        == "network"
    )
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    assert kind(ask(provider.base_url, setting="environment"), "the environment's proxy is not valid") == "proxy"


@needs_openssl
def test_failed_tls_says_why(secure: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    at_address = secure.base_url.replace("localhost", "127.0.0.1")
    assert kind(ask(at_address), "no TLS with the provider: its certificate is for another address") == "tls"
    assert kind(ask(secure.base_url.replace("https", "http")), "") == "network"
    monkeypatch.delenv("SSL_CERT_FILE")
    assert kind(ask(secure.base_url), "a CA that this machine does not know") == "tls"
    assert kind(ask(secure.base_url, Proxy()), "name its file in SSL_CERT_FILE") == "tls"


@needs_openssl
def test_rows_wait_while_certificates_are_wrong_and_the_fallback_answers(
    secure: ScriptedProvider, sqlite_desk: Desk
) -> None:
    desk = sqlite_desk
    other = {"base_url": desk.provider.base_url, "model": "valuer-2"}
    wrong = {"PROVIDERS__SECURE__BASE_URL": f"https://127.0.0.1:{secure.port}/v1", "PROVIDERS__SECURE__MODEL": "m"}
    desk.configure(LLM__PROVIDER="secure", **wrong)
    desk.add_row()
    with pytest.raises(Waiting, match=r"for another address \[tls\]: mend it here or at the provider"):
        desk.run(desk.submit())
    assert desk.row()["failed_times"] == 0
    desk.configure(LLM__PROVIDER="secure", LLM__FALLBACK='["other"]', PROVIDERS__OTHER=json.dumps(other), **wrong)
    desk.add_row(2)
    assert desk.run(desk.submit(2))["provider"] == "other"


def test_proxy_setting_is_checked_and_its_password_hidden() -> None:
    def given(proxy: str) -> Any:
        environ = {"BASE_URL": "https://p.example/v1", "MODEL": "m", "PROXY": proxy}
        return load(environ={f"SYTQ_PROVIDERS__P__{name}": value for name, value in environ.items()})

    settings = given("http://me:hunter2@proxy:3128")
    assert "hunter2" not in str(list(settings.describe())) + repr(settings)
    given("environment")
    for wrong in ("socks5://proxy:1080", "proxy:3128", "https://proxy"):
        with pytest.raises(ConfigError, match=r"providers\.p\.proxy"):
            given(wrong)


def test_names_behind_a_proxy_are_the_proxys_to_resolve(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        assert host != "provider.internal", "a machine behind a proxy has no such name"
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert ask(f"http://provider.internal:{provider.port}/v1", Proxy()) == REPORT
