"""TLS to Redis: `rediss://` trusts what providers' connections trust, and a failure says why."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sytq.broker.connection import Redis
from sytq.errors import RedisUnavailable
from tests.certificates import authority, needs_openssl, server
from tests.servers import RedisServer, free_port


@needs_openssl
@pytest.mark.usefixtures("redis_server")  # skips where Redis is not installed
def test_tls_to_redis_trusts_private_authorities_and_says_why_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, port = authority(tmp_path), free_port()
    own = server(tmp_path, ca)
    options = ["--tls-port", port, "--tls-cert-file", own.certificate, "--tls-key-file", own.key]
    options += ["--tls-ca-cert-file", ca.certificate, "--tls-auth-clients", "no"]
    redis = RedisServer(options=[str(option) for option in options])
    try:
        redis.start()
        with pytest.raises(RedisUnavailable, match="no TLS with it: its certificate is of a private CA: add that CA"):
            Redis(f"rediss://localhost:{port}/0").ask("PING")
        monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
        trusting = Redis(f"rediss://localhost:{port}/0")
        assert trusting.ask("PING")
        assert trusting.client.connection_pool.connection_kwargs["ssl_exclude_verify_flags"] == [ssl.VERIFY_X509_STRICT]  # type: ignore[union-attr]
        with pytest.raises(RedisUnavailable, match="no TLS with it: its certificate is for another address"):
            Redis(f"rediss://127.0.0.1:{port}/0").ask("PING")
    finally:
        redis.remove()
