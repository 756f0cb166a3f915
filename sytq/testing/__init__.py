"""For the tests of task types: run one in process, on a ledger of its own, with a clock and an outside that the test
moves; and a suite of standard tests that a type applies to itself.

Owns the public names for tests. What runs is the service's own: context, ledger, policy, HTTP client. Must not be
imported by the service.
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
