"""What differs between the processes of an installation and must not, from what they say of themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sytq.broker.cards import Seen
from sytq.config.shared import concerns, is_cores

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
        for queue in _queues(worker):
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
    with_card = [worker for worker in workers if worker.card is not None]
    known = [*with_card, *(other for other in others if other.card is not None)]
    return [
        *_clocks(known),
        *_without_consumer(workers, work),
        *_settings(known),
        *_types(with_card, [other for other in known if _kind(other) != "worker"]),
        *_plugins(known),
        *_versions(workers, known),
    ]


def _clocks(known: Sequence[Seen]) -> Iterator[Mismatch]:
    hosts: dict[str, dict[str, float]] = {}
    for seen in known:
        host = hosts.setdefault(_card(seen)["host"], {})
        for server, by in _card(seen)["ahead"].items():
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
            yield Mismatch(
                "clock", about, f"{said}, as {name} sees it", "run an NTP client on that server", severe=False
            )
            return


def _without_consumer(workers: Sequence[Seen], work: Iterable[str]) -> Iterator[Mismatch]:
    counts = consumers(workers, work)
    if counts is None or not workers:
        return
    for queue in sorted(queue for queue in work if not counts[queue]):
        consumed = ", ".join(sorted({name for worker in workers for name in _queues(worker)})) or "none"
        said = f"tasks wait in the queue {queue}, which no worker consumes; {len(workers)} alive consume {consumed}"
        todo = f"start a worker for it: `sytq worker` with `{queue}` in worker.queues (empty: all queues)"
        yield Mismatch("queue", queue, said, todo)


def _settings(known: Sequence[Seen]) -> Iterator[Mismatch]:
    groups: dict[tuple[Any, ...], Seen] = {}
    for seen in known:  # many processes, few configurations
        card = _card(seen)
        groups.setdefault((card["kind"], card["fingerprint"], tuple(card["queues"])), seen)
    named = set()
    for one, other in itertools.combinations(groups.values(), 2):
        ours, theirs = _card(one)["settings"], _card(other)["settings"]
        for key in sorted(ours.keys() | theirs.keys()):
            if key in named or ours.get(key) == theirs.get(key) or not _comparable(key, one, other):
                continue
            named.add(key)
            said = f"{key} is {_value(ours, key)} for {_who(one)}, {_value(theirs, key)} for {_who(other)}"
            yield Mismatch(
                "settings", key, said, "give all processes the same configuration, and restart", severe=False
            )


def _comparable(key: str, one: Seen, other: Seen) -> bool:
    """Whether two processes must have the same value. Who runs no task of a plugin may lack its whole section."""
    if not (concerns(key, _kind(one)) and concerns(key, _kind(other))):
        return False
    if is_cores(key) or (_kind(one) == _kind(other) == "worker" and set(_queues(one)) & set(_queues(other))):
        return True
    section = key.partition(".")[0]
    return all(any(name.partition(".")[0] == section for name in _card(seen)["settings"]) for seen in (one, other))


def _types(workers: Sequence[Seen], others: Sequence[Seen]) -> Iterator[Mismatch]:
    names = {name for seen in (*workers, *others) for name in _card(seen)["types"]}
    for name in sorted(names):
        users = [seen for seen in others if name in _card(seen)["types"]]
        runners = [seen for seen in workers if name in _card(seen)["types"] or _meets(seen, name, workers)]
        versions: dict[int | None, Seen] = {}
        for seen in (*runners, *users):
            versions.setdefault(_card(seen)["types"].get(name, [None])[0], seen)
        if users and workers and not any(name in _card(seen)["types"] for seen in workers):
            said = f"the type {name} is known to {_who(users[0])}, and to none of {len(workers)} workers"
            yield Mismatch("types", name, said, "install it on the workers too; its tasks wait until then")
        elif len(versions) > 1:
            said = ", ".join(
                f"unknown to {_who(seen)}" if version is None else f"version {version} for {_who(seen)}"
                for version, seen in versions.items()
            )
            todo = "deploy the same plugins everywhere; tasks that a worker does not know wait for another"
            yield Mismatch("types", name, f"the type {name} is {said}", todo)


def _meets(worker: Seen, name: str, workers: Sequence[Seen]) -> bool:
    """Whether a worker consumes the queue in which others have the type."""
    queues = {_card(seen)["types"][name][1] for seen in workers if name in _card(seen)["types"]}
    return bool(queues & set(_queues(worker)))


def _plugins(known: Sequence[Seen]) -> Iterator[Mismatch]:
    sources = {source: error for seen in known for source, error in _card(seen)["quarantined"].items()}
    for source, error in sorted(sources.items()):
        lacking = {source in _card(seen)["quarantined"]: seen for seen in reversed(known)}
        said = f"{source} is quarantined for {_who(lacking[True])}: {error}"
        said += f"; not for {_who(lacking[False])}" if False in lacking else ""
        yield Mismatch("plugin", source, said, "fix it there and restart; its tasks wait")


def _versions(workers: Sequence[Seen], known: Sequence[Seen]) -> Iterator[Mismatch]:
    versions: dict[str, Seen] = {}
    for seen in known:
        versions.setdefault(_card(seen)["version"], seen)
    older = [worker.name for worker in workers if worker.card is None and worker.age < SKEW * 4]
    if older:
        said = f"{len(older)} workers are of an older version and say nothing of themselves, among them {older[0]}"
        yield Mismatch("version", "", said, "upgrade them too", severe=False)
    if len(versions) > 1:
        said = ", ".join(f"{version} for {_who(seen)}" for version, seen in sorted(versions.items()))
        todo = "upgrade all processes; during an upgrade versions work together"
        yield Mismatch("version", "sytq", f"sytq is {said}", todo, severe=False)


def _card(seen: Seen) -> dict[str, Any]:
    assert seen.card is not None
    return seen.card


def _kind(seen: Seen) -> str:
    return str(_card(seen)["kind"])


def _queues(worker: Seen) -> list[str]:
    card = worker.card
    return [] if card is None or card["refused"] else list(card["queues"])


def _value(settings: dict[str, str], key: str) -> str:
    return settings.get(key, "") or "its default"


def _who(seen: Seen) -> str:
    card = _card(seen)
    what = {"worker": "the worker on", "api": "the API on", "command": "this command on"}[card["kind"]]
    return f"{what} {card['host']} (process {card['pid']})"
