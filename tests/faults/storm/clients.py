"""Clients that submit all the time, whatever the weather, and keep what was accepted."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import pymysql

from tests.faults.storm.service import Service


@dataclass(frozen=True)
class Accepted:
    id: str
    kind: str
    number: int  # of the row, or of the webhook's body


@dataclass
class Clients:
    """Some threads; together they submit `rate` tasks a second while the API answers at once."""

    service: Service
    rate: float
    seed: int
    accepted: list[Accepted] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        chance = random.Random(self.seed * 100 + seed)
        while not self._ended.is_set():
            kind = chance.choice(["llm", "webhook", "plain", "gentle"])
            # Connections are refused, reset and time out: the client does not know whether it was accepted.
            try:
                self._submit(kind, next(self._numbers), chance)
            except (OSError, http.client.HTTPException, pymysql.err.MySQLError) as error:
                self.statuses[type(error).__name__] += 1
            self._ended.wait(chance.uniform(0, 2) * len(self._threads) / self.rate)

    def _submit(self, kind: str, number: int, chance: random.Random) -> None:
        url = f"{self.service.receiver.url}/{number}"
        if kind == "llm":
            self._insert(number, url)
            path, body = "/api/tasks/llm", {"table_name": "valuation_records", "id": number}
        elif kind == "webhook":
            path, body = "/v2/tasks", {"type": kind, "payload": {"url": url, "body": f"number {number}"}}
        else:
            # SQLite's and Redis' ends are quick; some tasks run through a fault.
            seconds = chance.choice([0.0, 0.0, 0.05, 1.0, 5.0])
            payload = {"journal": str(self.service.folder / "journal"), "name": str(number), "seconds": seconds}
            path, body = "/v2/tasks", {"type": kind, "payload": payload}
        reply = self.service.installation.request("POST", path, body, timeout=30)
        self.statuses[str(reply.status)] += 1
        if reply.status in (200, 202):
            task_id = reply.json["data"]["task_id"] if kind == "llm" else reply.json["id"]
            self.accepted.append(Accepted(task_id, kind, number))
        elif reply.status != 503:
            self.unexpected.append(f"{reply.status} to a submission: {reply.body.decode(errors='replace')[:300]}")

    def _insert(self, number: int, url: str) -> None:
        """The row of the caller, who has a connection of its own."""
        with contextlib.closing(self.service.mysql.connect("sytq", read_timeout=20, write_timeout=20)) as connection:
            connection.cursor().execute(
                "INSERT INTO valuation_records (id, status, user_message, callback_url) VALUES (%s, 'pending', %s, %s)",
                (number, f"What is row {number}", url),
            )
