"""Saved views: queries with a name. Each owner has its own; an admin's may be shared, for everyone to see.

Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import peewee

from sytq.errors import InvalidInput
from sytq.ids import new_id
from sytq.ledger.audit import note
from sytq.ledger.database import read, transact, upsert
from sytq.ledger.models import SavedView
from sytq.ledger.query import parse
from sytq.ledger.values import utcnow

#: Views that an owner may have.
MAX_VIEWS = 100
_NAME_MAX = 64


class SavedViews:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def visible(self, owner: str) -> list[SavedView]:
        """Return the owner's views and the shared ones, by name."""
        seen = (SavedView.owner == owner) | (SavedView.shared == 1)
        return read(self._database, lambda: list(SavedView.select().where(seen).order_by(SavedView.name, SavedView.id)))

    def save(self, owner: str, name: str, query: str, by: str, *, shared: bool = False) -> None:
        """Save a query under a name; the owner's view with that name is replaced. Raises InvalidInput, InvalidQuery."""
        name, query = _checked(name), query.strip()
        parse(query)
        now = utcnow()
        row = {"id": new_id(), "owner": owner, "name": name, "query": query, "shared": int(shared), "created_at": now}

        def work() -> None:
            others = SavedView.select().where(SavedView.owner == owner, SavedView.name != name).count()
            if others >= MAX_VIEWS:
                raise InvalidInput("name", f"{MAX_VIEWS} views are saved, and more are not kept; delete one first")
            columns = {column: [value] for column, value in row.items()}
            replace = ("query", "shared", "created_at")
            upsert(self._database, "sytq_views", columns, key=("owner", "name"), replace=replace)
            note(now, by, "view.share" if shared else "view.save", name, query)

        transact(self._database, work)

    def rename(self, view_id: str, name: str, owner: str, by: str, *, admin: bool = False) -> bool:
        """Rename a view of the owner, for an admin also another's that is shared; False when there is none.

        Raises InvalidInput, also where its owner has another view with that name.
        """
        name, changeable = _checked(name), _changeable(view_id, owner, admin)

        def work() -> bool:
            row = SavedView.get_or_none(changeable)
            if row is None:
                return False
            SavedView.update(name=name).where(SavedView.id == row.id).execute()
            note(utcnow(), by, "view.rename", name, f"was {row.name}")
            return True

        try:
            return transact(self._database, work)
        except peewee.IntegrityError:
            raise InvalidInput("name", f"there is a view '{name}' already") from None

    def delete(self, view_id: str, owner: str, by: str, *, admin: bool = False) -> bool:
        """Delete a view of the owner, for an admin also another's that is shared; False when there is none."""
        deletable = _changeable(view_id, owner, admin)

        def work() -> bool:
            row = SavedView.get_or_none(deletable)
            if row is None or not SavedView.delete().where(deletable).execute():
                return False
            note(utcnow(), by, "view.delete", row.name, row.query)
            return True

        return transact(self._database, work)


def _changeable(view_id: str, owner: str, admin: bool) -> peewee.Expression:
    mine = SavedView.owner == owner
    return (SavedView.id == view_id) & ((mine | (SavedView.shared == 1)) if admin else mine)


def _checked(name: str) -> str:
    name = name.strip()
    if not name.isprintable() or not 0 < len(name) <= _NAME_MAX:
        raise InvalidInput("name", f"'{name[:64]}' is not valid; valid: 1 to {_NAME_MAX} visible characters")
    return name
