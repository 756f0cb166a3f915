"""The context of what a plugin shows on the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import peewee

from sytq.ledger.database import read

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DashboardContext:
    """What a plugin's pages, panels and overview are made with.

    `caller` is the name of the person who looks, and `owner` the owner whose tasks this person may see; None for the
    tasks of all owners. `parameters` are the query parameters of a page.
    """

    runtime: Any  # sytq.runtime.Runtime, which is above
    caller: str
    owner: str | None
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Any:
        """The settings; `settings.of(model)` is the typed way to the sections of a plugin."""
        return self.runtime.settings

    def read(self, work: Callable[[peewee.Database], T]) -> T:
        """Run `work(database)`, which only reads, on a connection without a transaction. Raises DatabaseUnavailable."""
        database: peewee.Database = self.runtime.database
        return read(database, lambda: work(database))
