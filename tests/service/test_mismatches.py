"""Mismatches: what is told of which processes, and what may differ."""

from __future__ import annotations

from typing import Any

import pytest

from sytq import config
from sytq.broker.cards import Seen
from sytq.config.shared import shared
from sytq.service.mismatches import KINDS, Mismatch, compare, consumers


def process(name: str, kind: str = "worker", **card: Any) -> Seen:
    said = {
        "kind": kind, "host": name, "pid": 7, "version": "0.2.0", "fingerprint": str(card.get("settings")),
        "settings": {}, "queues": ["default", "llm"] if kind == "worker" else [], "quarantined": {}, "refused": None,
        "types": {"llm": [1, "llm"], "webhook": [1, "webhook"]}, "ahead": {"redis": 0.0},
    }  # fmt: skip
    return Seen(name, 0.5, said | card)


def told(*workers: Seen, others: tuple[Seen, ...] = (), work: tuple[str, ...] = ()) -> list[Mismatch]:
    found = compare(workers, others, work)
    assert {each.kind for each in found} <= set(KINDS) and all(each.todo for each in found)
    return found


def only(found: list[Mismatch]) -> Mismatch:
    (mismatch,) = found
    return mismatch


def test_processes_that_agree_are_not_told() -> None:
    assert told(process("a"), process("b"), others=(process("c", "api"),), work=("llm",)) == []


def test_queue_without_consumer_is_named_with_what_is_consumed() -> None:
    found = only(told(process("a"), process("b"), work=("llm", "email")))
    assert (found.kind, found.about) == ("queue", "email") and "2 alive consume default, llm" in found.said


def test_refused_worker_consumes_nothing() -> None:
    refused = process("a", refused="another Redis")
    assert consumers([refused, process("b", queues=["llm"])], ["llm", "default"]) == {"llm": 1, "default": 0}


def test_older_workers_may_consume_any_queue() -> None:
    older = Seen("old-1-abc", 0.5, None)
    found = only(told(older, process("b"), work=("email",)))
    assert found.kind == "version" and "old-1-abc" in found.said and not found.severe
    assert consumers([older], ["llm"]) is None


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ({"redis": 600.0}, "the clock of b is 600.0 s ahead of Redis'"),
        ({"redis": -2.0, "database": -2.1}, "the clock of b is 2.0 s behind Redis', and 2.1 s off the database's"),
        (
            {"redis": 5.0, "database": 0.0},
            "Redis' clock is off: Redis' and the database's differ by 5.0 s, as b sees it",
        ),
        ({"redis": 0.0, "database": 7.0}, "the database's clock is off: Redis' and the database's differ by 7.0 s"),
        ({"redis": 0.9, "database": 0.6}, ""),
    ],
)
def test_clock_that_is_off_is_named(ahead: dict[str, float], expected: str) -> None:
    found = told(process("a"), process("b", ahead=ahead))
    assert ([each.kind for each in found], expected in "".join(each.said for each in found)) == (
        ["clock"] if expected else [],
        True,
    )


def test_setting_that_differs_is_named_with_both_values() -> None:
    api = process("web", "api", settings={"outbound.allow_networks": '["10.0.0.0/8"]'})
    found = only(told(process("a"), others=(api,)))
    assert (found.kind, found.about) == ("settings", "outbound.allow_networks")
    assert 'its default for the worker on a (process 7), ["10.0.0.0/8"] for the API on web (process 7)' in found.said


@pytest.mark.parametrize(
    ("key", "one", "other", "is_told"),
    [
        ("worker.liveness", "worker", "worker", True),
        ("worker.liveness", "worker", "api", False),
        ("auth.enabled", "api", "api", True),
        ("auth.enabled", "worker", "api", False),
        ("auth.enabled", "worker", "command", False),
        ("queues.llm.limit", "worker", "api", True),
        ("types.llm.timeout", "worker", "api", True),
        ("providers.x.model", "worker", "worker", True),
        ("providers.x.model", "worker", "api", False),  # whoever calls no provider needs none
    ],
)
def test_setting_is_compared_where_both_kinds_use_it(key: str, one: str, other: str, is_told: bool) -> None:
    ours, theirs = process("a", one, settings={key: "1"}), process("b", other)
    workers = [seen for seen, kind in ((ours, one), (theirs, other)) if kind == "worker"]
    others = tuple(seen for seen in (ours, theirs) if seen not in workers)
    found = [each for each in told(*workers, others=others) if each.kind == "settings"]
    assert bool(found) is is_told


def test_plugin_setting_is_compared_where_both_have_the_section() -> None:
    api = process("web", "api", settings={"providers.x.model": "small"})
    worker = process("a", settings={"providers.x.model": "large"})
    assert only(told(worker, others=(api,))).about == "providers.x.model"
    apart = process("b", settings={"webhook.secret": "*** (hash 1)"}, queues=["webhook"])
    assert [each for each in told(worker, apart) if each.kind == "settings"] == []


def test_type_is_told_where_it_is_missing_or_of_another_version() -> None:
    newer = process("b", types={"llm": [2, "llm"], "webhook": [1, "webhook"]})
    found = only(told(process("a"), newer))
    assert found.about == "llm" and "version 1 for the worker on a" in found.said and "version 2" in found.said
    lacking = process("b", types={"webhook": [1, "webhook"]})
    assert "unknown to the worker on b" in only(told(process("a"), lacking)).said
    elsewhere = process("b", types={"llm": [1, "llm"]}, queues=["default"])
    assert told(process("a"), elsewhere) == []  # nobody gives it a webhook


def test_type_that_no_worker_has_is_told_of_the_api() -> None:
    api = process("web", "api", types={"email": [1, "email"], "llm": [1, "llm"], "webhook": [1, "webhook"]})
    found = only(told(process("a"), others=(api,)))
    assert found.about == "email" and "known to the API on web (process 7), and to none of 1 workers" in found.said


def test_quarantined_plugin_is_named_with_who_has_it_whole() -> None:
    broken = process("b", quarantined={"shop.py": "SyntaxError: no"})
    found = only(told(process("a"), broken))
    assert found.kind == "plugin" and "for the worker on b" in found.said and "not for the worker on a" in found.said


def test_versions_are_told_but_are_no_failure() -> None:
    found = only(told(process("a"), process("b", version="0.3.0")))
    assert "0.2.0 for the worker on a" in found.said and "0.3.0 for" in found.said and not found.severe


def loaded(**environ: str) -> config.Settings:
    return config.load(environ={f"SYTQ_{name}": value for name, value in environ.items()})


def test_shared_settings_hold_no_secret_and_tell_two_apart() -> None:
    one = loaded(
        WEBHOOK__SECRET="whsec_c3l0cS10ZXN0cy1zaWduaW5nLXNlY3JldC0=", OUTBOUND__PROXY="http://u:hush@proxy:3128"
    )
    other = loaded(
        WEBHOOK__SECRET="whsec_b3RoZXItdGVzdHMtc2lnbmluZy1zZWNyZXQ=", OUTBOUND__PROXY="http://u:hush@proxy:3128"
    )
    ours, theirs = shared(one, b"salt", "worker"), shared(other, b"salt", "worker")
    assert "hush" not in str(ours) and "c3l0cS" not in str(ours)
    assert ours["webhook.secret"] != theirs["webhook.secret"]
    assert ours["outbound.proxy"] == theirs["outbound.proxy"] and ours["outbound.proxy"].startswith(
        "http://u:***@proxy"
    )
    assert shared(one, b"another ledger", "worker")["webhook.secret"] != ours["webhook.secret"]
    assert shared(one, None, "worker") == {}  # unsalted, a weak secret could be guessed


def test_settings_that_differ_by_nature_are_not_shared() -> None:
    settings = loaded(
        WORKER__THREADS="3", WORKER__QUEUES='["llm"]', LOGGER__LEVEL="debug", REDIS__URL="redis://elsewhere/0",
        DATABASE__POOL="7", API__PORT="8081", PLUGINS__PATHS="[]", QUEUE__CONCURRENCY="3", WORKER__LIVENESS="9s",
    )  # fmt: skip
    assert shared(settings, b"salt", "worker") == {"worker.liveness": "9s"}


def test_long_setting_is_shown_by_its_beginning_and_a_hash() -> None:
    one, other = (loaded(OUTBOUND__DENY_HOSTS=str([f"host{n}.example" for n in range(50)] + [end]).replace("'", '"'))
                  for end in ("x.example", "y.example"))  # fmt: skip
    ours, theirs = (shared(each, None, "worker")["outbound.deny_hosts"] for each in (one, other))
    assert len(ours) < 200 and ours != theirs and ours[:100] == theirs[:100]
