"""The pair of a ledger and a Redis: who is refused, who goes on, who takes over, and when."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from sytq.broker.cards import Cards
from sytq.broker.connection import Redis
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.broker.pairing import RedisHalf
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.database import open_database
from sytq.ledger.pairing import LedgerHalf
from sytq.pairing import database_place, redis_place
from sytq.service.comparison import Comparison
from sytq.service.pairing import Pairing
from tests.servers import poll
from tests.tables import make_tables

NEAR, FAR = 0.2, 0.5


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytq.pairing.NEAR", NEAR)
    monkeypatch.setattr("sytq.pairing.FAR", FAR)
    monkeypatch.setattr("sytq.service.pairing.RENEWED", 0.0)  # each look is a sign of life


class Stores:
    """Ledgers by name and Redis databases by number; `worker` is a starting worker of one of each."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url.rpartition("/")[0]
        self.urls = {"": database_url}
        self.migrated: set[str] = set()
        self._count = 0

    def worker(self, number: int = 0, ledger: str = "", *, place: str = "", migrated: bool = True) -> Pairing:
        url = self.urls.setdefault(ledger, f"sqlite:///{self.folder / ledger}.db")
        database = open_database(url, pool=4)
        if migrated:
            make_tables(database)
        self._count += 1
        redis_url = f"{self.redis_url}/{number}"
        half = RedisHalf(Redis(redis_url), Keys("sytq"), place or redis_place(redis_url, "sytq"))
        return Pairing(LedgerHalf(database, database_place(url)), half, f"w{self._count}")


@pytest.fixture
def stores(tmp_path: Path, redis_url: str) -> Stores:
    return Stores(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url)


def may(worker: Pairing) -> bool:
    return worker.look()


def keeps_on(others: list[Pairing], worker: Pairing, seconds: float = 1.5 * FAR) -> list[bool]:
    """What `worker` finds while the others go on looking for some time."""
    until, found = time.monotonic() + seconds, []
    while time.monotonic() < until:
        assert all(may(other) for other in others)
        found.append(may(worker))
    return found


def takes_over(worker: Pairing, *others: Pairing) -> float:
    """The seconds until a waiting worker may consume, after a last look of others."""
    since = time.monotonic()
    assert all(may(other) for other in others)
    poll(lambda: may(worker), timeout=10, message="the worker takes over")
    return time.monotonic() - since


def test_workers_of_one_pair_all_consume(stores: Stores) -> None:
    workers = [stores.worker() for _ in range(3)]
    assert all(may(worker) for _ in range(5) for worker in workers)
    assert len({(worker.ledger_id, worker.redis_id) for worker in workers}) == 1


def test_worker_of_second_redis_never_consumes_beside_the_first(stores: Stores) -> None:
    first, second = stores.worker(), stores.worker(7)
    assert may(first)
    assert not any(keeps_on([first], second)) and second.refused
    second.look()
    conflict = second.conflict
    assert conflict is not None and conflict.kind == "redis"
    assert all(word in str(conflict) for word in (first.places[0], first.places[1], second.places[1], "worker w1"))


def test_refused_redis_is_known_to_the_other_side(stores: Stores) -> None:
    first, second = stores.worker(), stores.worker(7)
    may(first)
    keeps_on([first], second, 0.2)
    half = first._ledger.read()
    assert half is not None and half.refused is not None
    assert (half.refused.place, half.refused.worker) == (second.places[1], "w2") and half.refused.silent < 5


def test_second_redis_takes_over_once_the_first_is_silent(tmp_path: Path, database_url: str, redis_url: str) -> None:
    stores = Stores(tmp_path, database_url, redis_url)
    first, second = stores.worker(), stores.worker(7)
    may(first)
    keeps_on([first], second, 0.2)
    assert takes_over(second, first) >= FAR - 0.1 and not second.refused
    # A worker of the first that comes back (paused for long) is the second one now.
    assert not any(keeps_on([second], first))


def test_worker_of_second_ledger_never_consumes_beside_the_first(stores: Stores) -> None:
    first, second = stores.worker(), stores.worker(ledger="other")
    assert may(first)
    assert not any(keeps_on([first], second)) and second.refused
    second.look()
    conflict = second.conflict
    assert conflict is not None and conflict.kind == "ledger" and second.places[0] in str(conflict)
    there = first._redis.read()
    assert there.refused is not None and there.refused.place == second.places[0]
    assert takes_over(second, first) >= FAR - 0.1


def test_ledger_without_tables_is_refused_beside_a_live_one(stores: Stores) -> None:
    first, second = stores.worker(), stores.worker(ledger="empty", migrated=False)
    assert may(first)
    assert not any(keeps_on([first], second))


def test_ledger_that_is_not_migrated_yet_is_consumed(stores: Stores) -> None:
    assert may(stores.worker(ledger="old", migrated=False))


def test_p2_emptied_redis_is_the_same_one_at_once(stores: Stores, redis_client: redis.Redis) -> None:
    workers = [stores.worker(), stores.worker()]
    assert all(may(worker) for worker in workers)
    redis_client.flushall()
    assert all(may(worker) for _ in range(3) for worker in workers)
    time.sleep(NEAR)
    assert all(may(worker) for _ in range(30) for worker in workers)


def test_p2_redis_emptied_again_and_again_is_the_same_one(stores: Stores, redis_client: redis.Redis) -> None:
    workers = [stores.worker(), stores.worker()]
    for _ in range(3):
        assert all(may(worker) for _ in range(3) for worker in workers)
        redis_client.flushall()
        for worker in workers:
            assert may(worker) and not worker.refused
        time.sleep(1.5 * NEAR)


@pytest.mark.parametrize("by", [-3600, 3600])
def test_p2_clock_of_the_database_that_steps_refuses_nobody(stores: Stores, redis_client: redis.Redis, by: int) -> None:
    worker = stores.worker()
    assert may(worker)
    for kind in ("at work", "starts"):
        # What is written was written by a clock that was `by` seconds ahead.
        worker._ledger._write(f"UPDATE sytq_ledger SET seen_at = datetime(seen_at, '{by} seconds')")
        redis_client.flushall()
        other = worker if kind == "at work" else stores.worker()
        assert kind == "starts" or may(other)
        assert takes_over(other) < 3 * NEAR
        poll(lambda: may(worker) and not worker.conflict, message="the first worker goes on")
        half = worker._ledger.read()
        assert half is not None and half.partner is not None and -1 < half.partner.silent < 5


def test_p2_redis_emptied_and_then_away_is_not_taken_for_another(
    stores: Stores, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [stores.worker(), stores.worker(place="redis.example:6379/0")]
    assert all(may(worker) for worker in workers)
    redis_client.flushall()
    assert all(may(worker) for worker in workers)

    def away(*_: object) -> None:
        raise RedisUnavailable("full")

    for one, other in (workers, reversed(workers)):
        for _ in range(3):
            with monkeypatch.context() as patch, pytest.raises(RedisUnavailable):
                patch.setattr(one._redis, "read", away)
                one.look()  # says at the ledger that it is alive
            assert may(other) and not other.refused


def test_p2_redis_emptied_while_no_worker_ran_goes_on_at_once(stores: Stores, redis_client: redis.Redis) -> None:
    assert may(stores.worker())
    redis_client.flushall()
    time.sleep(NEAR)
    assert may(stores.worker())


def test_p2_redis_that_lost_its_last_beats_goes_on(stores: Stores, redis_client: redis.Redis) -> None:
    worker = stores.worker()
    assert all(may(worker) for _ in range(5))
    redis_client.hset(Keys("sytq").pair, "beat", 1)  # a replica that was behind was promoted
    until = time.monotonic() + 2 * NEAR
    while time.monotonic() < until:
        assert may(worker)
    assert int(redis_client.hget(Keys("sytq").pair, "beat") or 0) > 5
    assert may(stores.worker())


def test_copy_of_a_redis_is_refused_beside_the_first(stores: Stores, redis_client: redis.Redis) -> None:
    """A replica that was promoted by hand, or a dump loaded elsewhere, has the identity of the first."""
    first = stores.worker()
    may(first)
    redis_client.copy(Keys("sytq").pair, Keys("sytq").pair, destination_db=7)
    may(first)
    assert not any(keeps_on([first], stores.worker(7)))
    assert not any(keeps_on([first], stores.worker(7, place=first.places[1])))  # one name, two servers


def test_p2_emptied_redis_is_no_mismatch(stores: Stores, redis_client: redis.Redis) -> None:
    worker = stores.worker()
    redis_ = Redis(f"{stores.redis_url}/0")
    keys = Keys("sytq")
    comparison = Comparison(
        Cards(redis_, keys, NEAR),
        Inspection(redis_, keys, (), {}),
        worker._ledger,
        RedisHalf(redis_, keys, worker.places[1]),
    )
    for _ in range(3):
        assert may(worker) and comparison.pair() == []
    redis_client.flushall()
    assert comparison.pair() == []
    until = time.monotonic() + 2 * NEAR
    while time.monotonic() < until:
        assert may(worker) and comparison.pair() == []


def test_one_redis_under_two_names_is_one(stores: Stores) -> None:
    first, second = stores.worker(), stores.worker(place="redis.example:6379/0")
    assert all(may(worker) for _ in range(5) for worker in (first, second))


def test_two_prefixes_are_two_redis() -> None:
    assert redis_place("redis://u:p@h:1/0", "a") != redis_place("redis://u:p@h:1/0", "b")


def test_p2_outage_of_the_database_gives_the_ledger_to_nobody(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = stores.worker(), stores.worker(7)
    may(first)
    keeps_on([first], second, 0.2)

    def away() -> None:
        raise DatabaseUnavailable("away")

    for half in (first._ledger, second._ledger):
        monkeypatch.setattr(half, "read", away)
    for worker in (first, second):
        with pytest.raises(DatabaseUnavailable):
            worker.look()
    time.sleep(FAR)
    monkeypatch.undo()
    monkeypatch.setattr("sytq.pairing.NEAR", NEAR)
    monkeypatch.setattr("sytq.pairing.FAR", FAR)
    assert not may(second)  # it asked first
    assert may(first) and not may(second)


def test_p2_outage_of_one_store_keeps_the_other(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one store is away, the workers keep others from the store that answers."""
    first, other_redis, other_ledger = stores.worker(), stores.worker(7), stores.worker(ledger="other")
    may(first)

    def away(*_: object) -> None:
        raise (RedisUnavailable if store == "redis" else DatabaseUnavailable)("away")

    for store, other in (("redis", other_redis), ("ledger", other_ledger)):
        half = first._redis if store == "redis" else first._ledger
        with monkeypatch.context() as patch:
            patch.setattr(half, "read", away)
            until = time.monotonic() + 2 * FAR
            while time.monotonic() < until:
                with pytest.raises((RedisUnavailable, DatabaseUnavailable)):
                    first.look()
                assert not may(other), store
        assert may(first)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://:hush@redis.example", "redis.example/0, prefix sytq"),
        ("rediss://u:p%40@redis.example:6380/3", "redis.example:6380/3, prefix sytq"),
        ("redis+sentinel://:p@a:1,b:2/main/0", "a:1,b:2/main/0, prefix sytq"),
        ("redis://127.0.0.1:6379/0", "127.0.0.1:6379/0, prefix sytq, on box"),
        ("unix:///run/redis.sock", "/run/redis.sock, prefix sytq, on box"),
    ],
)
def test_place_of_redis_has_no_login(url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert redis_place(url, "sytq") == place


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("mysql://u:hush@db.example:3306/sytq?tls=true", "db.example:3306/sytq"),
        ("sqlite:////var/lib/sytq.db", "/var/lib/sytq.db, on box"),
        ("mysql://u@localhost/sytq", "localhost/sytq, on box"),
    ],
)
def test_place_of_database_has_no_login(url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert database_place(url) == place
