"""TLS to MySQL: `tls=true` trusts what providers' connections trust, and a failure says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import open_database, read
from tests.certificates import authority, needs_openssl, server
from tests.servers import MySQLServer


@needs_openssl
@pytest.mark.usefixtures("mysql_server")  # skips where MySQL is not installed
def test_tls_to_mysql_trusts_private_authorities_and_says_why_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = authority(tmp_path)
    own = server(tmp_path, ca, host="127.0.0.1")
    mysql = MySQLServer([f"--ssl-cert={own.certificate}", f"--ssl-key={own.key}"])
    try:
        mysql.start()
        url = f"{mysql.create_database('t')}&tls=true"

        def cipher(at: str) -> str:
            database = open_database(at)
            try:
                return read(database, lambda: database.execute_sql("SHOW STATUS LIKE 'Ssl_cipher'").fetchone()[1])
            finally:
                database.close_all()  # type: ignore[attr-defined]

        with pytest.raises(DatabaseUnavailable, match="no TLS with it: its certificate is of a CA that this machine"):
            cipher(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
        assert cipher(url)
        with pytest.raises(DatabaseUnavailable, match="no TLS with it: its certificate is for another name"):
            cipher(url.replace("127.0.0.1", "localhost"))
    finally:
        mysql.remove()
