"""A worker keeps its latest acknowledgements, in bounded memory and time, to repeat them to an emptied Redis."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import pytest
from dramatiq import Message

import sytq.executor.acks
from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery, Outcome
from sytq.broker.keys import Keys
from sytq.broker.limiters import Limiters
from sytq.executor.acks import Acks, end_event
from tests.executor.test_checkpoint import event_loop
from tests.servers import poll

MIB = 1 << 20


NESTED: list[object] = []
for _ in range(400):
    NESTED = [NESTED]


def delivery(name: str, stream: str = "") -> Delivery:
    message = Message[object]("q", "t", ({},), {}, {}, name, 0)
    return Delivery(message, stream=stream, entry=b"1-1", body=b"", attempts=1, max_attempts=1, token=5)


class Ends:
    """Ends of attempts that are older than this Redis, and the events that it has of them."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self._acked: list[str] = []
        self.loop = event_loop()
        limiters = Limiters(redis, keys, 4.0)
        self.acks = Acks(self.loop, redis, keys, "w", (), limiters, self._note)
        self.empty()

    def _note(self, deliveries: Sequence[Delivery]) -> None:
        self._acked += [delivery.id for delivery in deliveries]

    def empty(self) -> None:
        self._redis.ask("DEL", self._keys.events, self._keys.live)
        self._redis.ask("SET", self._keys.epoch, 10)

    def event_ids(self) -> list[str]:
        return [fields[b"id"].decode() for _, fields in self._redis.ask("XRANGE", self._keys.events, "-", "+")]

    def end(self, name: str, size: int = 0) -> None:
        run = delivery(name, self._keys.stream("q", "normal"))
        run.outcome = Outcome("done", result="x" * size)
        self.loop.call_soon_threadsafe(self.acks.put, run)
        poll(lambda: name in self._acked, message="Redis takes the end, and the worker keeps it")

    def repeated(self, then: str) -> list[str]:
        """The ends that an emptied Redis gets before the next end, `then`."""
        self.empty()
        self.acks.repeat()
        self.end(then)
        return self.event_ids()[:-1]


@pytest.fixture
def ends(redis_url: str) -> Iterator[Ends]:
    redis = Redis(redis_url)
    made = Ends(redis, Keys("ends"))
    yield made
    assert made.acks.stop(10)
    redis.close()


def test_p2_latest_ends_are_repeated_within_the_memory_limit(ends: Ends) -> None:
    for name in ("a", "b", "c", "d"):
        ends.end(name, size=6 * MIB)
    assert ends.repeated("e") == ["c", "d"]
    assert ends.repeated("f") == ["c", "d", "e"]  # Redis may be emptied a second time


def test_ends_past_their_retention_are_not_repeated(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.end("a")
    ends.acks.forget()
    assert ends.repeated("b") == ["a"]
    monkeypatch.setattr(sytq.executor.acks, "_KEPT", 0.0)
    ends.acks.forget()
    assert ends.repeated("c") == []


@pytest.mark.parametrize(
    "detail",
    [
        {"word": "€ \x00\u2028"},
        {"half": "\ud83d"},
        {"deep": NESTED},
        {"much": 10**40, "little": 1e-300},
        {"no": math.inf},
    ],
    ids=["words", "surrogate", "deep", "numbers", "infinity"],
)
def test_the_event_of_an_end_has_every_detail_as_it_was(detail: dict[str, object]) -> None:
    run = delivery("a")
    run.detail = detail
    assert json.loads(end_event(run, Outcome("done"), 1, "w"))["detail"] == detail
