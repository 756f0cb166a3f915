"""One word for one thing: replaced words occur in code and docs only for listed reasons."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = {".py", ".lua", ".md", ".html", ".js", ".sql", ".json"}
#: Other projects' files, which sytq carries as they are.
VENDORED = {"htmx.js", "uplot.js"}

#: The replaced word (a pattern), and its replacement.
INSTEAD = {
    "gates?": "limiter",
    "passages?": "permit",
    "turnstiles?": "permit",
    "acceptors?": "submission batcher",
    "crews?": "executor",
    "lanes?": "event loop, slots",
    "wardens?": "health server",
    "vitals|vital signs?": "liveness file",
    "pulses?": "heartbeat",
    "settles?|settled|settling": "acknowledge",
    "bury|buries|buried": "dead letter",
    "unreadable": "dead letter",
    "doorbells?|bells?": "wake-up stream",
    "foreign": "external",
    "bridges?": "external stream",
    "standing": "existing",
    "told(?! apart)": "announced, reported",
    "live index": "state index",
    "in line": "in the wait queue",
    "doomed|trials?": "harness, fake HTTP",
    "sights?": "snapshot",
    "timetables?": "schedules",
    "meters?|metered": "quota",
    "patience": "timeout",
}

#: Names that callers, operators and stores rely on: they are ignored everywhere.
KEPT = (
    r"sytq gates?\b",  # metrics `sytq_gate_*`, and the command's former name
    r":gates(:\w+)*|:bell\b|:meter\b",  # keys in Redis
    r"dead/unreadable|list unreadable|Unreadable (Message|Page)",  # the API's
    r"dead unreadable|sytq unreadable",  # the command, and a metric
    r"\bgate\.(pause|resume)\b|\"gates?\"|`gate`",  # actions of the audit, keys of JSON and labels of metrics
    r"bench\.gates",  # a program beside the package
)

DEPRECATED = "the former name works until 0.3"
KEY = "named as the key in Redis is"
SENSE = "another sense of the word"
VERB = "an everyday verb"
#: Where a replaced word is allowed: word, file (a pattern), reason.
ALLOWED: dict[str, dict[str, str]] = {
    "gates?": {
        "sytq/__init__.py": DEPRECATED,
        "sytq/deprecated.py": DEPRECATED,
        "docs/limiters.md": DEPRECATED,
        "sytq/cli/top.py": "the JSON of `sytq top` says gates",
        "sytq/broker/scripts/*.lua": "a field of the JSON in Redis",
    },
    "passages?": {"sytq/__init__.py": DEPRECATED, "sytq/deprecated.py": DEPRECATED, "docs/limiters.md": DEPRECATED},
    "settles?|settled|settling": {
        "sytq/ledger/spend.py": SENSE + ": accounting",
        "plugins/llm/*.py": SENSE + ": accounting",
        "plugins/backup.py": SENSE + ": a rename that is durable",
        "sytq/api/request_context.py": SENSE + ": decided",
    },
    "unreadable": {
        "sytq/broker/*.py": "the outcome and the entries that the API and the command name so",
        "sytq/broker/scripts/ack.lua": "the outcome of an acknowledgement, as it is on the wire",
        "sytq/executor/*.py": "the outcome of an acknowledgement, as it is on the wire",
        "sytq/api/v2/*.py": "the resource of the path",
        "sytq/service/status.py": "the entries of sytq/broker that it describes",
        "sytq/service/condition.py": "a check of `sytq doctor --json`",
        "sytq/cli/*": "the command, and a check of `sytq doctor --json`",
        "docs/cli.md": "a check of `sytq doctor --json`",
        "docs/metrics.md": "what the metric counts",
    },
    "doorbells?|bells?": {
        "sytq/broker/*": KEY,
        "sytq/executor/*.py": KEY,
        "sytq/worker/loops/promoter.py": KEY,
    },
    "foreign": {
        "sytq/ledger/*": "foreign keys of SQL",
        "plugins/llm/row.py": "foreign keys of SQL",
        "docs/jobs.md": "foreign keys of SQL",
        "docs/operations.md": "foreign keys of SQL",
        "sytq/observability/logs.py": "an argument of structlog",
        "sytq/worker/middleware/sentry.py": SENSE + ": an exception of another library",
    },
    "standing": {"plugins/llm/*.py": SENSE + ": how far a row is"},
    "told(?! apart)": {
        "sytq/worker/middleware/*.py": VERB,
    },
    "doomed|trials?": {"sytq/testing/*.py": DEPRECATED},
    "meters?|metered": {
        "sytq/broker/*.py": KEY,
        "plugins/llm/*.py": SENSE + ": how many tokens of an answer have come",
    },
}


def files() -> list[Path]:
    found = [path for folder in ("sytq", "plugins", "docs") for path in sorted((ROOT / folder).rglob("*"))]
    return [
        path for path in found if path.suffix in TEXTS and path.name not in VENDORED and "__pycache__" not in path.parts
    ]


def words_of(path: Path) -> str:
    """The text with names split into words: `OpenGate` and `open_gate` are two words each."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", path.read_text("utf-8")).replace("_", " ")
    return re.sub("|".join(KEPT), "", text)


TEXT = {path.relative_to(ROOT).as_posix(): words_of(path) for path in files()}


@pytest.mark.parametrize("word", INSTEAD)
def test_replaced_word_occurs_only_in_listed_files(word: str) -> None:
    pattern = re.compile(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])", re.IGNORECASE)
    found = {path for path, text in TEXT.items() if pattern.search(text)}
    allowed = ALLOWED.get(word, {})
    unlisted = {path for path in found if not any(fnmatch(path, place) for place in allowed)}
    assert unlisted == set(), f"{word}: write {INSTEAD[word]}, or list the file with its reason"
