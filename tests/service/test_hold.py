"""When a process may start tasks: what it does not know, it waits for; but not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger import hold as ledger
from sytq.ledger.database import transact
from sytq.ledger.values import utcnow
from sytq.service import hold as module
from sytq.service.hold import Hold
from tests.installation import Installation

T = TypeVar("T")


@pytest.fixture
def hold(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Hold:
    monkeypatch.setattr(module, "_INTERVAL", 0.0)
    return Hold(installation.runtime.database, installation.runtime.redis, installation.runtime.keys)


def away(error: type[Exception]) -> Any:
    def ask(*_: object) -> None:
        raise error("away")

    return ask


def test_nothing_starts_before_the_first_look(hold: Hold) -> None:
    assert not hold.may_start()
    assert hold.look() and hold.may_start()


def test_p2_start_without_a_database_runs_what_redis_has_after_a_while(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read", away(DatabaseUnavailable))
    with pytest.raises(DatabaseUnavailable):
        hold.look()
    assert not hold.may_start()
    monkeypatch.setattr(module, "_UNKNOWN", 0.0)
    assert hold.may_start(), "what Redis has"
    with pytest.raises(DatabaseUnavailable):
        hold.look()  # nothing is taken from elsewhere


def test_hold_lasts_while_a_store_is_away(
    hold: Hold, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = installation.runtime.database
    transact(database, lambda: ledger.hold(utcnow(), "a person", "a test"))
    assert not hold.look()
    monkeypatch.setattr(module, "_UNKNOWN", 0.0)
    for name, error in (("read", DatabaseUnavailable), ("recorded_in_redis", RedisUnavailable)):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(module, name, away(error))
            hold.look()
        assert not hold.may_start()
    transact(database, lambda: ledger.end(utcnow(), "a person", ""))
    assert hold.look() and hold.may_start()


def test_redis_that_comes_back_is_looked_at_before_anything_starts(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hold.look()
    monkeypatch.setattr(module, "_UNKNOWN", 0.0)
    with monkeypatch.context() as patch, pytest.raises(RedisUnavailable):
        patch.setattr(module, "recorded_in_redis", away(RedisUnavailable))
        hold.look()
    assert not hold.may_start()
    assert hold.look() and hold.may_start()


def test_answer_of_a_late_replica_stops_nothing(
    hold: Hold, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = installation.runtime
    now = parts.redis.now_ms()
    transact(parts.database, lambda: ledger.set_position(parts.database, now))
    parts.redis.ask("SET", parts.keys.recorded, now)
    parts.redis.ask("XADD", parts.keys.events, f"{now}-0", "kind", "started")
    monkeypatch.setattr(module, "read", lambda *_: (now - 1000, None))  # as a proxy that splits reads from writes
    assert hold.look() and hold.may_start()


def test_older_redis_that_has_made_an_event_already_starts_nothing(hold: Hold, installation: Installation) -> None:
    parts = installation.runtime
    now = parts.redis.now_ms()
    transact(parts.database, lambda: ledger.set_position(parts.database, now))
    parts.redis.ask("SET", parts.keys.recorded, now)
    parts.redis.ask("XADD", parts.keys.events, f"{now + 1}-0", "kind", "started")
    assert hold.look()
    parts.redis.ask("SET", parts.keys.recorded, now - 5000)
    assert not hold.look()
    assert not hold.may_start() and hold.recorded() == now
    parts.redis.ask("SET", parts.keys.recorded, now)  # the recorder has mended it
    assert hold.look() and hold.may_start()


def test_hold_that_begins_while_a_process_looks_lets_nothing_start(
    hold: Hold, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = installation.runtime
    now = parts.redis.now_ms()
    transact(parts.database, lambda: ledger.set_position(parts.database, now - 5000))  # an older dump was restored
    parts.redis.ask("SET", parts.keys.recorded, now)
    parts.redis.ask("XADD", parts.keys.events, f"{now}-0", "kind", "started")

    def mend() -> None:
        """What the recorder of another process commits."""
        ledger.set_position(parts.database, now)
        ledger.hold(utcnow(), "sytq worker", "set back")

    mended: list[bool] = []

    def then_mended(function: Callable[[], T]) -> Callable[[], T]:
        def call() -> T:
            found = function()
            if not mended:
                mended.append(True)
                other = threading.Thread(target=transact, args=(parts.database, mend))
                other.start()
                other.join()
            return found

        return call

    monkeypatch.setattr(ledger, "position", then_mended(ledger.position))
    monkeypatch.setattr(ledger, "held", then_mended(ledger.held))
    assert not hold.look()
    assert mended and not hold.may_start()


def test_a_hold_is_kept_once_and_in_the_audit_log(installation: Installation) -> None:
    database = installation.runtime.database
    assert transact(database, lambda: ledger.hold(utcnow(), "one", "first"))
    assert not transact(database, lambda: ledger.hold(utcnow(), "two", "second"))
    row = transact(database, ledger.held)
    assert row is not None and (row.paused_by, row.paused_why) == ("one", "first")
    assert installation.runtime.operator.pauses() == [], "no type is paused"
    assert transact(database, lambda: ledger.end(utcnow(), "one", "3 tasks go on"))
    assert not transact(database, lambda: ledger.end(utcnow(), "one", ""))
    assert installation.rows("SELECT who, what, detail FROM sytq_audit ORDER BY id") == [
        ("one", "service.hold", "first"), ("one", "service.release", "3 tasks go on")
    ]  # fmt: skip
