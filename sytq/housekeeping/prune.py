"""Retention: submits the `cleanup` task at its times, once however many workers run.

Owns when; what is removed is the plugin's.
"""

from __future__ import annotations

import time
import uuid

from sytq.broker.keys import Keys
from sytq.broker.redis import Redis
from sytq.housekeeping.loop import LeasedLoop
from sytq.ids import derived_id
from sytq.submit import Submitter

_EVERY = 600.0
_SERIES = str(uuid.UUID(int=0))


class Pruner(LeasedLoop):
    """See the module."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, submitter: Submitter) -> None:
        super().__init__("prune", redis, keys, holder)
        self._submitter = submitter
        self._submitted = 0

    def work(self) -> float:
        slot = int(time.time() // _EVERY)
        if slot != self._submitted:
            # The id says which time it is for: another worker's submission of the same one is the same task.
            task = self._submitter.prepare("cleanup", {}, id=derived_id(_SERIES, f"cleanup:{slot}"), priority="low")
            self._submitter.submit([task])
            self._submitted = slot
        return 1.0
