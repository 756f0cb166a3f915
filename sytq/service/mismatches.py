"""What differs between the processes of an installation and must not, from what they say of themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sytq.broker.cards import Seen
from sytq.config.shared import concerns, is_cores

#: What a process says of itself (sytq.service.cards).
Card = dict[str, Any]
#: Every kind of mismatch.
KINDS = ("redis", "ledger", "clock", "queue", "settings", "types", "plugin", "version")
#: Seconds by which clocks may differ.
SKEW = 1.0
_FAR_OFF = 10.0


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that differs: `said` names both sides, `todo` what to do."""

    kind: str
    about: str  # the setting, type, queue or host
    said: str
    todo: str
    severe: bool = True  # tasks wait, fail or run twice because of it


def consumers(workers: Iterable[Seen], queues: Iterable[str]) -> dict[str, int] | None:
    """How many workers consume each queue; None while a worker does not say which it consumes."""
    counts = dict.fromkeys(queues, 0)
    for worker in workers:
        if worker.card is None:
            return None
        for queue in _queues(worker.card):
            counts[queue] = counts.get(queue, 0) + 1
    return counts


def skews(workers: Iterable[Seen]) -> dict[str, float]:
    """Seconds by which the clock of each host leads Redis', the largest of its workers."""
    found: dict[str, float] = {}
    for worker in workers:
        if worker.card is not None:
            host, by = str(worker.card["host"]), float(worker.card["ahead"].get("redis", 0.0))
            found[host] = max(found.get(host, 0.0), by, key=abs)
    return found


def compare(workers: Sequence[Seen], others: Sequence[Seen], work: Iterable[str]) -> list[Mismatch]:
    """Compare living workers with each other and with `others`; `work` are the queues in which tasks wait."""
    mine = [worker.card for worker in workers if worker.card is not None]
    known = [*mine, *(other.card for other in others if other.card is not None)]
    return [
        *_clocks(known),
        *_without_consumer(workers, work),
        *_settings(known),
        *_types(mine, [card for card in known if card["kind"] != "worker"]),
        *_plugins(known),
        *_versions(workers, known),
    ]


def _clocks(known: Sequence[Card]) -> Iterator[Mismatch]:
    hosts: dict[str, dict[str, float]] = {}
    for card in known:
        host = hosts.setdefault(card["host"], {})
        for server, by in card["ahead"].items():
            host[server] = max(host.get(server, 0.0), by, key=abs)
    for name, ahead in hosts.items():
        redis, database = ahead.get("redis", 0.0), ahead.get("database")
        if abs(redis) > SKEW and (database is None or abs(database) > SKEW):
            said = f"the clock of {name} is {abs(redis):.1f} s {'ahead of' if redis > 0 else 'behind'} Redis'"
            said += "" if database is None else f", and {abs(database):.1f} s off the database's"
            yield Mismatch("clock", name, said, f"run an NTP client on {name}", severe=abs(redis) >= _FAR_OFF)
        elif database is not None and abs(redis - database) > SKEW:
            about, whose = ("redis", "Redis'") if abs(redis) > SKEW else ("database", "the database's")
            said = f"{whose} clock is off: Redis' and the database's differ by {abs(redis - database):.1f} s"
            said += f", as {name} sees it"
            yield Mismatch("clock", about, said, "run an NTP client on that server", severe=False)
            return


def _without_consumer(workers: Sequence[Seen], work: Iterable[str]) -> Iterator[Mismatch]:
    counts = consumers(workers, work)
    if counts is None or not workers:
        return
    for queue in sorted(queue for queue in work if not counts[queue]):
        consumed = ", ".join(sorted(name for name, count in counts.items() if count)) or "none"
        said = f"tasks wait in the queue {queue}, which no worker consumes; {len(workers)} alive consume {consumed}"
        todo = f"start a worker for it: `sytq worker` with `{queue}` in worker.queues (empty: all queues)"
        yield Mismatch("queue", queue, said, todo)


def _settings(known: Sequence[Card]) -> Iterator[Mismatch]:
    groups: dict[tuple[Any, ...], Card] = {}
    for card in known:  # many processes, few configurations
        groups.setdefault((card["kind"], card["fingerprint"], tuple(card["queues"])), card)
    named = set()
    for one, other in itertools.combinations(groups.values(), 2):
        ours, theirs = one["settings"], other["settings"]
        for key in sorted(ours.keys() | theirs.keys()):
            if key in named or ours.get(key) == theirs.get(key) or not _comparable(key, one, other):
                continue
            named.add(key)
            said = f"{key} is {_value(ours, key)} for {_who(one)}, {_value(theirs, key)} for {_who(other)}"
            todo = "give all processes the same configuration, and restart"
            yield Mismatch("settings", key, said, todo, severe=False)


def _comparable(key: str, one: Card, other: Card) -> bool:
    """Whether two processes must have the same value. Who runs no task of a plugin may lack its whole section."""
    if not (concerns(key, one["kind"]) and concerns(key, other["kind"])):
        return False
    if is_cores(key) or (one["kind"] == other["kind"] == "worker" and set(_queues(one)) & set(_queues(other))):
        return True
    section = key.partition(".")[0]
    return all(any(name.partition(".")[0] == section for name in card["settings"]) for card in (one, other))


def _types(workers: Sequence[Card], others: Sequence[Card]) -> Iterator[Mismatch]:
    for name in sorted({name for card in (*workers, *others) for name in card["types"]}):
        users = [card for card in others if name in card["types"]]
        queues = {card["types"][name][1] for card in workers if name in card["types"]}
        # Those that have it, and those that consume its queue.
        runners = [card for card in workers if name in card["types"] or queues & set(_queues(card))]
        versions: dict[int | None, Card] = {}
        for card in (*runners, *users):
            versions.setdefault(card["types"].get(name, [None])[0], card)
        if users and workers and not queues:
            said = f"the type {name} is known to {_who(users[0])}, and to none of {len(workers)} workers"
            yield Mismatch("types", name, said, "install it on the workers too; its tasks wait until then")
        elif len(versions) > 1:
            said = ", ".join(
                f"unknown to {_who(card)}" if version is None else f"version {version} for {_who(card)}"
                for version, card in versions.items()
            )
            todo = "deploy the same plugins everywhere; tasks that a worker does not know wait for another"
            yield Mismatch("types", name, f"the type {name} is {said}", todo)


def _plugins(known: Sequence[Card]) -> Iterator[Mismatch]:
    sources = {source: error for card in known for source, error in card["quarantined"].items()}
    for source, error in sorted(sources.items()):
        lacking = {source in card["quarantined"]: card for card in reversed(known)}
        said = f"{source} is quarantined for {_who(lacking[True])}: {error}"
        said += f"; not for {_who(lacking[False])}" if False in lacking else ""
        yield Mismatch("plugin", source, said, "fix it there and restart; its tasks wait")


def _versions(workers: Sequence[Seen], known: Sequence[Card]) -> Iterator[Mismatch]:
    versions: dict[str, Card] = {}
    for card in known:
        versions.setdefault(card["version"], card)
    older = [worker.name for worker in workers if worker.card is None and worker.age < SKEW * 4]
    if older:
        said = f"{len(older)} workers are of an older version and say nothing of themselves, among them {older[0]}"
        yield Mismatch("version", "", said, "upgrade them too", severe=False)
    if len(versions) > 1:
        said = ", ".join(f"{version} for {_who(card)}" for version, card in sorted(versions.items()))
        todo = "upgrade all processes; during an upgrade versions work together"
        yield Mismatch("version", "sytq", f"sytq is {said}", todo, severe=False)


def _queues(card: Card) -> list[str]:
    return [] if card["refused"] else list(card["queues"])


def _value(settings: dict[str, str], key: str) -> str:
    return settings.get(key, "") or "its default"


def _who(card: Card) -> str:
    what = {"worker": "the worker on", "api": "the API on", "command": "this command on"}[card["kind"]]
    return f"{what} {card['host']} (process {card['pid']})"
