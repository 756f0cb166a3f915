"""TLS of connections out, by handshakes with certificates as private authorities really make them."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from sytq.tls import client_context, explain
from tests.certificates import Signed, authority, needs_openssl, server

pytestmark = needs_openssl


def handshake(client: ssl.SSLContext, serving: Signed, host: str = "localhost") -> None:
    """A handshake in memory. Raises the client's error."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = serving.context().wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (ours, theirs):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert ours.version()


def test_private_authority_without_key_identifiers_is_enough(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    handshake(client_context(ca.certificate), server(tmp_path, ca))
    assert not client_context().verify_flags & ssl.VERIFY_X509_STRICT  # which Python 3.13 would set


def test_intermediate_authority_is_trusted_without_its_root(tmp_path: Path) -> None:
    middle = authority(tmp_path, "middle", authority(tmp_path))
    handshake(client_context(middle.certificate), server(tmp_path, middle))


def test_verification_failures_say_what_is_wrong(tmp_path: Path) -> None:
    ca, other = authority(tmp_path), authority(tmp_path, "other")
    good = server(tmp_path, ca)
    cases = [
        (ca, server(tmp_path, ca, name="old", days=-1), "localhost", "its certificate has expired"),
        (ca, good, "elsewhere.example", "its certificate is for another name"),
        (ca, good, "127.0.0.1", "its certificate is for another address"),
        (other, good, "localhost", "of a CA that this machine does not know"),
        (other, server(tmp_path, None, name="own"), "localhost", "its certificate is self-signed"),
    ]
    for trusted, serving, host, words in cases:
        with pytest.raises(ssl.SSLError) as caught:
            handshake(client_context(trusted.certificate), serving, host)
        said = explain(caught.value)
        assert said is not None and words in said, (words, said)
        assert ("SSL_CERT_FILE" in said) == (trusted is other)
        assert explain(OSError(1, caught.value)) == said  # as libraries wrap it


def test_server_without_tls_is_told_from_a_bad_certificate() -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client_context().wrap_bio(to_client, to_server, server_hostname="localhost")
    to_client.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        ours.do_handshake()
    assert explain(caught.value) == "it speaks no TLS: correct the scheme or the port"
    assert explain(ConnectionResetError()) is None
