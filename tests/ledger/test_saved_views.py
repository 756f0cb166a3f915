"""Saved views: what each owner sees, saves and deletes."""

from __future__ import annotations

import peewee
import pytest

from sytq.errors import InvalidInput, InvalidQuery
from sytq.ledger import saved_views
from sytq.ledger.audit import Audit
from sytq.ledger.saved_views import SavedViews


def shown(views: SavedViews, owner: str) -> list[tuple[str, str]]:
    return [(view.name, view.query) for view in views.visible(owner)]


def test_owner_sees_own_and_shared_views_by_name(database: peewee.Database) -> None:
    views = SavedViews(database)
    views.save("shop", " Tote Bestellungen ✓ ", " state:dead ", "shop")
    views.save("shop", "a slow", "age:>1h", "shop")
    views.save("ops", "mine", "state:running", "ops")
    views.save("ops", "dead today", "state:dead finished:<24h", "ops", shared=True)
    assert shown(views, "shop") == [
        ("Tote Bestellungen ✓", "state:dead"), ("a slow", "age:>1h"), ("dead today", "state:dead finished:<24h"),
    ]  # fmt: skip
    assert shown(views, "other") == [("dead today", "state:dead finished:<24h")]
    views.save("shop", "a slow", "age:>2h", "shop")
    assert ("a slow", "age:>2h") in shown(views, "shop") and len(shown(views, "shop")) == 3
    assert [entry.what for entry in Audit(database).latest(5)][:2] == ["view.save", "view.share"]


def test_view_is_deleted_by_its_owner_and_shared_one_by_admin(database: peewee.Database) -> None:
    views = SavedViews(database)
    views.save("shop", "own", "state:dead", "shop")
    views.save("ops", "shared", "state:dead", "ops", shared=True)
    own, shared = (view.id for view in views.visible("shop"))
    assert not views.delete(own, "other", "other", admin=True) and not views.delete(shared, "shop", "shop")
    assert not views.delete("nosuch", "shop", "shop")
    assert not views.rename(own, "x", "other", "other", admin=True)
    assert not views.rename(shared, "x", "shop", "shop")
    assert views.delete(own, "shop", "shop") and not views.delete(own, "shop", "shop")
    assert views.delete(shared, "root", "root", admin=True)
    assert shown(views, "shop") == []
    assert [entry.about for entry in Audit(database).latest(2)] == ["shared", "own"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "two\nlines", "\u202eabc"])
def test_invalid_names_are_refused(database: peewee.Database, name: str) -> None:
    with pytest.raises(InvalidInput, match="name: "):
        SavedViews(database).save("shop", name, "state:dead", "shop")


def test_invalid_queries_and_too_many_views_are_refused(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = SavedViews(database)
    with pytest.raises(InvalidQuery):
        views.save("shop", "bad", "colour:red", "shop")
    monkeypatch.setattr(saved_views, "MAX_VIEWS", 2)
    for name in ("one", "two", "two"):
        views.save("shop", name, "state:dead", "shop")
    with pytest.raises(InvalidInput, match="2 views are saved"):
        views.save("shop", "three", "state:dead", "shop")
    views.save("shop", "two", "state:running", "shop")
