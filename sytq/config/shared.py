"""The settings that have to be the same in every process of an installation, as processes tell them to each other."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator

from sytq.config.fingerprint import revealed
from sytq.config.settings import Settings, leaves

#: What differs between processes by nature: where they are, how many and how large, what they log. Redis and the
#: database have many addresses: their identities are compared.
_OWN = (
    *("app", "mysql", "redis", "database", "api", "logger", "sentry", "otel", "plugins", "queue.concurrency"),
    *("worker.processes", "worker.threads", "worker.async_concurrency", "worker.queues", "worker.host", "worker.port"),
    "worker.shutdown_timeout",
)
#: What processes of a kind do not use.
_NOT_OF = {"worker": ("auth", "dashboard"), "api": ("worker", "streams", "schedules", "queue")}
_MAX_SHOWN = 120


def concerns(key: str, kind: str) -> bool:
    """Whether processes of a kind (worker, api, command) use a setting that others have too."""
    other = _NOT_OF.get(kind, ())
    return not _within(key, _OWN) and not _within(key, other)


def shared(settings: Settings, salt: bytes | None, kind: str) -> dict[str, str]:
    """Dotted key -> value, of the settings that are not their default.

    A value that holds a secret has a keyed hash in its place, so that two can be compared; without a salt it is left
    out. The hash of a long value follows its beginning.
    """
    shown = {key: value for key, value, _ in settings.describe()}
    defaults = dict(_raw(type(settings)()))
    found = {}
    for key, raw in _raw(settings):
        if not concerns(key, kind) or defaults.get(key) == raw:
            continue
        value = shown.get(key, "")
        if value == "" and key not in defaults:
            continue  # an optional part of a section with a name
        if "***" in value:
            if salt is not None:
                digest = hmac.digest(salt, f"{key}={raw}".encode(), "sha256").hex()
                found[key] = f"{value[:_MAX_SHOWN]} (hash {digest[:12]})"
        elif len(value) > _MAX_SHOWN:
            found[key] = f"{value[:_MAX_SHOWN]}... (hash {hashlib.sha256(raw.encode()).hexdigest()[:12]})"
        else:
            found[key] = value
    return found


def is_cores(key: str) -> bool:
    """Whether a setting is the core's, which every process has; those of plugins may be only where they are used."""
    return key.partition(".")[0] in Settings.model_fields


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _raw(settings: Settings) -> Iterator[tuple[str, str]]:
    """The leaves as `Settings.describe` names them, secrets included."""
    for key, value in leaves(settings.model_dump()):
        yield key, json.dumps(value, default=revealed, sort_keys=True)
