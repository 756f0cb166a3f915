"""Connections to MySQL (and MariaDB): their session and their pool."""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import select
import time
from typing import Any

import peewee
from playhouse.pool import MaxConnectionsExceeded, PoolConnection, PooledMySQLDatabase
from pymysql.constants import SERVER_STATUS

from sytq import clock
from sytq.tcp import RESTED, keep_alive

__all__ = ["MaxConnectionsExceeded", "MySQL"]


class MySQL(PooledMySQLDatabase):
    """Peewee's pool, without a lock held while the server is asked.

    Peewee connects, checks idle connections and rolls back under a lock: when the server stops answering, every thread
    of the process would wait for the timeouts of all threads before it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = contextlib.nullcontext()  # guards what each thread has for itself; the pool has its own lock

    def _connect(self) -> object:
        reserved = object()
        with self._pool_lock:
            if len(self._in_use) >= self._max_connections:
                raise MaxConnectionsExceeded("all pooled connections are busy")
            self._in_use[reserved] = PoolConnection(0.0, None, time.time())
        try:
            since, connection = self._idle() or (time.time(), self._open())
        except BaseException:
            with self._pool_lock:
                del self._in_use[reserved]
                self._pool_available.notify()
            raise
        with self._pool_lock:
            del self._in_use[reserved]
            self._in_use[self.conn_key(connection)] = PoolConnection(since, connection, time.time())
        return connection

    def _close(self, connection: Any, close_conn: bool = False) -> None:
        # Rolled back before the connection is free.
        super()._close(connection, close_conn or not self._at_rest(connection))

    def _can_reuse(self, connection: Any) -> bool:
        return True  # `_close` has asked

    def _at_rest(self, connection: Any) -> bool:
        """Whether a connection can be pooled again; Peewee would roll back even without a transaction."""
        if not connection.open:
            return False
        connection.rests_since = time.monotonic()
        in_transaction = connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS
        return not in_transaction or bool(super()._can_reuse(connection))

    def _idle(self) -> tuple[float, Any] | None:
        """A live idle connection and the time it was opened, or None."""
        while True:
            with self._pool_lock:
                if not self._connections:
                    return None
                since, _, connection = heapq.heappop(self._connections)
            if not self._is_stale(since) and _lives(connection):
                return since, connection
            self._close_raw(connection)

    def _open(self) -> Any:
        """A new connection with the session settings that sytq relies on, whatever the server's defaults."""
        connection = peewee.MySQLDatabase._connect(self)  # type: ignore[attr-defined]
        keep_alive(connection._sock)
        with connection.cursor() as cursor:
            # Strict: a value too long for its column is an error, never truncated silently.
            cursor.execute(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO',"
                " SESSION time_zone = '+00:00', SESSION innodb_lock_wait_timeout = 10"
            )
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            sent = time.monotonic()
            cursor.execute("SELECT UTC_TIMESTAMP(6)")
            clock.heard("database", cursor.fetchone()[0].replace(tzinfo=dt.UTC).timestamp(), sent)
        return connection


def _lives(connection: Any) -> bool:
    """Whether an idle connection can be used."""
    if time.monotonic() - connection.rests_since > RESTED:
        return False
    # The server sends nothing on an idle connection unless it closes it.
    socket = select.poll()
    socket.register(connection._sock, select.POLLIN)
    return not socket.poll(0)
