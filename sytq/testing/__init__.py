"""For the tests of task types: run one in process, on a ledger of its own, with a clock and an outside that the test
moves; and a suite of standard tests that a type applies to itself.

Owns the public names for tests. What runs is the service's own: context, ledger, policy, HTTP client. Must not be
imported by the service.
"""

from sytq.testing.fake_http import Call, Outside, Reply
from sytq.testing.harness import Clock, Run, Trial
from sytq.testing.suite import TypeSuite

__all__ = ["Call", "Clock", "Outside", "Reply", "Run", "Trial", "TypeSuite"]
