"""Tests of task types: a harness that runs tasks in process, with fake HTTP and a movable clock, and a suite of
standard tests.

Context, ledger, policy and HTTP client are the service's own. The service must not import this package.
"""

from sytq.deprecated import renamed_names
from sytq.testing.fake_http import Call, FakeHttp, Reply
from sytq.testing.harness import Clock, Harness, Run
from sytq.testing.suite import TypeSuite

__all__ = ["Call", "Clock", "FakeHttp", "Harness", "Reply", "Run", "TypeSuite"]

__getattr__ = renamed_names(__name__, Outside=FakeHttp, Trial=Harness)
