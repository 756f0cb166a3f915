"""A private certificate authority as people make it with openssl, and what it signs."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass(frozen=True)
class Signed:
    """A certificate with its key."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A server's context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def authority(folder: Path, name: str = "authority", by: Signed | None = None, *extensions: str) -> Signed:
    """A CA without key identifiers, as old instructions make it; its own root, or signed `by` another."""
    return _sign(folder, name, by, ["basicConstraints=critical,CA:TRUE", *extensions], days=2)


def server(folder: Path, by: Signed | None, host: str = "localhost", name: str = "server", days: int = 2) -> Signed:
    """A server's certificate without an Authority Key Identifier; with `days` below 0 it has expired."""
    kind = "IP" if host[:1].isdigit() else "DNS"
    return _sign(folder, name, by, [f"subjectAltName={kind}:{host}"], days)


def _sign(folder: Path, name: str, by: Signed | None, extensions: list[str], days: int) -> Signed:
    made = Signed(folder / f"{name}.crt", folder / f"{name}.key")
    request, wanted = folder / f"{name}.csr", folder / f"{name}.ext"
    wanted.write_text("\n".join(["subjectKeyIdentifier=none", "authorityKeyIdentifier=none", *extensions]))
    _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(request))
    signer = ["-signkey", str(made.key)] if by is None else ["-CA", str(by.certificate), "-CAkey", str(by.key),
                                                             "-CAcreateserial"]  # fmt: skip
    _openssl("x509", "-req", "-in", str(request), *signer, "-days", str(days), "-extfile", str(wanted), "-out",
             str(made.certificate))  # fmt: skip
    return made


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
