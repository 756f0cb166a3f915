"""The entries of the navigation: a page each, with the scope that it needs."""

from __future__ import annotations

from typing import NamedTuple

#: Paths of the forms that log in and out.
LOGIN, LOGOUT = "/dashboard/login", "/dashboard/logout"


class Entry(NamedTuple):
    """`path` is below /dashboard."""

    path: str
    label: str
    scope: str = "read"


ENTRIES = (
    Entry("", "Overview"),
    Entry("/tasks", "Tasks"),
    Entry("/failures", "Failures"),
    Entry("/queues", "Queues"),
    Entry("/types", "Types"),
    Entry("/workers", "Workers"),
    Entry("/schedules", "Schedules"),
    Entry("/limiters", "Limiters"),
    Entry("/keys", "Keys", "admin"),
    Entry("/sessions", "Sessions"),
    Entry("/audit", "Audit", "admin"),
    Entry("/system", "System", "admin"),
)
