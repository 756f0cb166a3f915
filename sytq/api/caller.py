"""The caller of a request and its scopes."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from sytq.ledger.query import Filter


@dataclass(frozen=True, slots=True)
class Caller:
    """`owner` is the owner of its tasks; None in the other fields is no limit."""

    name: str
    owner: str | None
    scopes: frozenset[str]
    types: frozenset[str] | None = None
    key_id: str | None = None
    rate: tuple[int, int] | None = None  # requests, seconds
    daily_tasks: int | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the caller may see and change the tasks of all owners."""
        return "admin" in self.scopes

    @property
    def visible_owner(self) -> str | None:
        """The owner whose tasks the caller may see; None for the tasks of all owners."""
        return None if self.is_admin else self.owner or ""

    @property
    def rights(self) -> tuple[str | None, frozenset[str], frozenset[str] | None]:
        """What decides which tasks the caller may see, and what it may do."""
        return self.visible_owner, self.scopes, self.types

    def can_see(self, owner: str | None) -> bool:
        """Whether the caller may see the tasks of this owner; to others they do not exist."""
        return self.is_admin or owner == self.owner

    def limited(self, wanted: Filter) -> Filter:
        """The filter of the tasks that match and that the caller may see."""
        return wanted if self.visible_owner is None else wanted.owned_by(self.visible_owner)

    def may(self, scope: str) -> bool:
        return scope in self.scopes or self.is_admin

    def require_scope(self, scope: str, why: str = "") -> None:
        """Raise HTTPForbidden without this scope."""
        if not self.may(scope):
            said = f"{why}this needs a key with the scope '{scope}'; yours has: {', '.join(sorted(self.scopes))}"
            raise falcon.HTTPForbidden(description=said)

    def require_type(self, type_name: str) -> None:
        """Raise HTTPForbidden for a task type that the caller may not submit."""
        if self.types is not None and type_name not in self.types:
            raise falcon.HTTPForbidden(
                description=f"this key may not submit '{type_name}'; it may submit: {', '.join(sorted(self.types))}"
            )


#: All clients on this machine while auth is off.
LOCAL = Caller("local", None, frozenset(("admin",)))

#: Whoever has not logged in.
NOBODY = Caller("", None, frozenset())
