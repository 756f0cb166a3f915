"""The card of a process: what can differ between machines and must not. Processes compare their cards."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from sytq import clock
from sytq.config import Settings
from sytq.config.masking import mask_text
from sytq.config.shared import shared
from sytq.ledger.values import iso
from sytq.service.pairing import Identity
from sytq.tasktypes.registry import Registry

#: Seconds by which a clock may be off without a word on the card: else each beat would carry another one.
_UNTOLD = 0.5
#: Memory is on the card in steps of so many bytes, for the same reason.
_STEP = 16 * 2**20


class CardMaker:
    """Makes the card of this process as it is now; thread-safe."""

    def __init__(
        self,
        kind: Literal["worker", "api", "command"],
        version: str,
        settings: Settings,
        registry: Registry,
        identity: Callable[[], Identity] = Identity,
    ) -> None:
        """`version` is sytq's."""
        self._kind = kind
        self._version = version
        self._settings = settings
        self._registry = registry
        self._identity = identity
        self._began = time.monotonic()
        self._shared: tuple[bytes | None, dict[str, str]] | None = None
        self.queues: Callable[[], Iterable[str]] = tuple

    def make(self) -> dict[str, Any]:
        """What the process says of itself: `types` are version and queue by name, `ahead` seconds by server, `memory`
        the resident bytes, roughly (None where the system does not say)."""
        identity = self._identity()
        settings = self._settings_with(identity.salt)
        return {
            "kind": self._kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": self._version,
            "started": iso(round(clock.now() - (time.monotonic() - self._began))),
            "ledger": identity.ledger,
            "redis": identity.redis,
            "fingerprint": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12],
            "settings": settings,
            "queues": sorted(self.queues()),
            "types": {known.name: (known.version, known.queue) for known in self._registry},
            "quarantined": {each.source: mask_text(each.error)[:200] for each in self._registry.quarantined},
            "ahead": {server: round(by, 1) if abs(by) > _UNTOLD else 0.0 for server, by in clock.ahead().items()},
            "memory": _memory(),
            "refused": identity.refused,
        }

    def text(self) -> str:
        return json.dumps(self.make(), ensure_ascii=False)

    def _settings_with(self, salt: bytes | None) -> dict[str, str]:
        if self._shared is None or self._shared[0] != salt:
            self._shared = salt, shared(self._settings, salt, self._kind)
        return self._shared[1]


def _memory() -> int | None:
    """The resident memory of this process, in whole steps."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux
        return None
    return -(-pages * os.sysconf("SC_PAGE_SIZE") // _STEP) * _STEP
