"""Tests of task types: a harness that runs tasks in process, with fake HTTP and a movable clock, and a suite of
standard tests.

Context, ledger, policy and HTTP client are the service's own. The service must not import this package.
"""

import warnings
from typing import Any

from sytq.testing.fake_http import Call, FakeHttp, Reply
from sytq.testing.harness import Clock, Harness, Run
from sytq.testing.suite import TypeSuite

__all__ = ["Call", "Clock", "FakeHttp", "Harness", "Reply", "Run", "TypeSuite"]

_DEPRECATED = {"Outside": FakeHttp, "Trial": Harness}


def __getattr__(name: str) -> Any:
    if name not in _DEPRECATED:
        raise AttributeError(f"module 'sytq.testing' has no attribute '{name}'")
    found = _DEPRECATED[name]
    warnings.warn(f"sytq.testing.{name} is now {found.__name__}; it goes with 0.3", DeprecationWarning, stacklevel=2)
    return found
