"""The rights of sytq's Redis user: what is missing is named, and a call that Redis refuses halfway loses nothing."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import sytq
from sytq.broker.connection import Redis
from sytq.broker.dispatcher import Dispatcher
from sytq.broker.keys import Keys
from sytq.broker.operations import Operations
from sytq.broker.rights import COMMANDS, check_rights
from sytq.errors import RedisRefused, RedisUnavailable
from tests.broker.bench import Bench
from tests.servers import RedisServer

KEYS = Keys("sytq")


def commands_of(*scripts: str) -> set[str]:
    """The commands in these scripts, or in all."""
    folder = files("sytq.broker").joinpath("scripts")
    texts = [file.read_text("utf-8") for file in folder.iterdir() if not scripts or file.name in scripts]
    return {name for text in texts for name in re.findall(r"redis\.p?call\('(\w+)'", text)}


#: What the scripts run that move a task.
MOVES = sorted(
    commands_of(
        *("dispatch.lua", "promote.lua", "cancel.lua", "ack.lua", "_state_index.lua"),
        *("fetch.lua", "_start.lua", "_reclaim.lua"),
    )
)


def user(server: RedisServer, *rules: str) -> Redis:
    """A connection of a user with these ACL rules."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rules)
    return Redis(server.url.replace("redis://", "redis://limited:secret@"))


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ("+@all -@scripting ~*", ["EVALSHA"]),
        ("+@all -evalsha ~*", ["EVALSHA"]),
        ("+@all -eval ~*", ["EVAL"]),
        ("+@all ~other:*", ["keys ~{sytq}:*", "keys ~s", "keys ~s:dlq"]),
        ("+@all ~{sytq}:* ~s", ["keys ~s:dlq"]),
        ("+@all ~{sytq}:live ~s ~s:dlq", ["keys ~{sytq}:*"]),
        ("+@all -@stream ~*", ["XADD", "XREADGROUP", "XGROUP CREATE", "XINFO CONSUMERS"]),
        ("+@all -@blocking ~*", ["XREAD", "XREADGROUP"]),
        ("+@all -hset -zadd -time ~*", ["HSET", "ZADD", "TIME"]),
        ("+@all -@write ~*", ["SET", "HSET", "XADD", "ZREM", "DEL"]),
        ("-@all ~*", ["EVALSHA"]),
    ],
)
def test_missing_right_is_named(every_server: RedisServer, rules: str, named: list[str]) -> None:
    with pytest.raises(RedisRefused) as refused:
        check_rights(user(every_server, *rules.split()), KEYS, ["s", "s:dlq"])
    said = re.split(r" refuses (?:its user )?|, |: | \(", str(refused.value))
    assert set(named) <= set(said), refused.value
    assert "docs/redis.md" in str(refused.value)


@pytest.mark.parametrize("rules", ["+@all -xautoclaim -script -client -@pubsub -info -config resetchannels ~*"])
def test_rights_that_sytq_does_not_use_are_not_missed(every_server: RedisServer, rules: str) -> None:
    check_rights(user(every_server, *rules.split()), KEYS, ["s", "s:dlq"])


def test_renamed_command_is_named(every_server: RedisServer) -> None:
    renamed = RedisServer(every_server.program, ("--rename-command", "XCLAIM", "", "--rename-command", "ZRANGE", "zr"))
    try:
        renamed.start()
        with pytest.raises(RedisRefused, match="its user ZRANGE, XCLAIM "):
            check_rights(Redis(renamed.url), KEYS)
    finally:
        renamed.remove()


def test_check_of_rights_leaves_no_key_behind(every_server: RedisServer) -> None:
    with every_server.client() as client:
        client.flushall()
        client.xadd("s", {"a": "b"})
        check_rights(Redis(every_server.url), KEYS, ["s", "absent"])
        assert client.pttl(KEYS.rights) > 0
        assert set(client.keys()) == {b"s", KEYS.rights.encode()} and client.xlen("s") == 1


def test_every_command_that_sytq_sends_is_checked() -> None:
    used = commands_of()
    for path in Path(sytq.__file__).parent.rglob("*.py"):
        used |= set(re.findall(r'\.ask\(\s*\*?\(?"([A-Z]+)"', path.read_text("utf-8")))
    assert {"XREADGROUP", "HMGET", "ZRANK", "XCLAIM"} <= used
    # EVAL is run by the check itself; INFO is doctor's, which does without.
    assert used - {"EVAL", "INFO"} <= {command.split()[0] for command in COMMANDS}


class Life:
    """One queue's tasks, moved by a user who lacks a right at the first try of each step."""

    def __init__(self, bench: Bench, server: RedisServer, command: str) -> None:
        self._admin, self._command = server.client(), command
        self.bench = copy.copy(bench)
        self.bench.redis = redis = user(server, "+@all", "~*")
        self.bench.dispatcher, self.bench.operations = Dispatcher(redis, bench.keys), Operations(redis, bench.keys)
        self.starts: Counter[str] = Counter()
        self.held: dict[str, Any] = {}

    def step(self, call: Callable[[], Any], again: Callable[[], Any] | None = None) -> Any:
        self._change(f"-{self._command}")
        try:
            return call()
        except RedisUnavailable:
            self._change("+@all")
            return (again or call)()
        finally:
            self._change("+@all")

    def _change(self, rule: str) -> None:
        self._admin.execute_command("ACL", "SETUSER", "limited", rule)

    def fetch(self, worker: str, sweep: bool = True) -> None:
        # A consumer whose fetch failed looks for the tasks of a lost reply.
        held = [
            part for item in self.held.values() for part in ((item[0], item[1].decode()), (item[0], item[2].decode()))
        ]
        found = self.step(
            lambda: self.bench.fetch(worker, held=held), lambda: self.bench.fetch(worker, sweep=True, held=held)
        )
        self.starts.update(list(found))
        self.held |= found

    def ack(self, worker: str, name: str, kind: str, state: str) -> None:
        event = json.dumps({"state": state, "attempts": 1})
        if_cancelled = json.dumps({"state": "cancelled", "attempts": 1})
        item = self.held.pop(name)
        self.step(lambda: self.bench.ack(worker, item, kind, event=event, if_cancelled=if_cancelled))


def outcome(life: Life, bench: Bench) -> tuple[Any, ...]:
    """Let tasks of every fate run through: their starts, their ends by event and by index, and what is left of them."""
    for name in ("done", "retry", "return", "asked"):
        life.step(lambda name=name: life.bench.dispatch(name))  # type: ignore[misc]
    life.step(lambda: life.bench.dispatch("later", due_ms=bench.now_ms() + 3_600_000))
    life.fetch("w")
    for name in ("asked", "later"):
        life.step(lambda name=name: life.bench.operations.cancel(name, "somebody"))  # type: ignore[misc]
    life.ack("w", "done", "done", "succeeded")
    life.ack("w", "retry", "retry", "retrying")
    life.ack("w", "return", "return", "queued")
    life.ack("w", "asked", "retry", "retrying")
    life.step(life.bench.promote)
    life.fetch("w")
    for name in ("retry", "return"):
        life.ack("w", name, "done", "succeeded")
    life.fetch("w")
    # What a refusal may leave of ended tasks: acknowledged entries until the next sweep, a delay until its time.
    bench.fetch("w", sweep=True)
    bench.operations.reschedule("later", bench.now_ms())
    bench.promote()
    ended = [event for event in bench.events() if event[b"kind"] == b"ended"]
    seen = bench.see()
    return (
        dict(life.starts),
        {event[b"id"].decode(): json.loads(event[b"data"])["state"] for event in ended},
        {name: live[0] for name, live in seen.live.items()},
        (seen.waiting, seen.pending, seen.lost, seen.delayed, seen.cancels),
    )


def test_p1_call_refused_halfway_loses_and_doubles_no_task(bench: Bench, every_server: RedisServer) -> None:
    ends = dict(done="succeeded", retry="succeeded", asked="cancelled", later="cancelled") | {"return": "succeeded"}
    right = {"done": 1, "retry": 2, "return": 2, "asked": 1}, ends, ends, ([], [], [], {}, {})
    for command in MOVES:
        bench.flush()
        assert outcome(Life(bench, every_server, command), bench) == right, command


def test_p4_task_of_a_refused_dispatch_is_started_once(bench: Bench, every_server: RedisServer) -> None:
    for command in MOVES:
        bench.flush()
        life, starts = Life(bench, every_server, command), []

        def again(starts: list[str] = starts) -> None:
            starts += bench.fetch("w")
            bench.dispatch("a")

        life.step(lambda life=life: life.bench.dispatch("a"), again)  # type: ignore[misc]
        starts += bench.fetch("w")
        assert starts == ["a"], command
