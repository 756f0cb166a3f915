"""What a plugin shows is a list of blocks; `show` gives the API and the command line its fields."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from sytq import DashboardPage, Plugin, blocks, task
from sytq.config import load
from sytq.tasktypes.resolution import resolve
from sytq.tasktypes.tasktype import TaskType


class Item(BaseModel):
    name: str


def showing(show: Any) -> TaskType:
    @task("item", payload=Item, show=show)
    def item(ctx: Any, payload: Item) -> None:
        pass

    return resolve(item, load(environ={}))


def test_show_with_blocks_gives_api_and_command_its_fields() -> None:
    def show(item: Item, result: Any) -> list[blocks.Block]:
        price, took = blocks.Money(Decimal("1.20"), "EUR"), blocks.Duration(90)
        return [
            blocks.Fields({"price": price, "none": None}),
            blocks.Markdown(item.name),
            blocks.Fields({"took": took, "state": blocks.State("dead"), "more": blocks.Link("here", "/tasks")}),
        ]

    declared = showing(show)
    assert declared.shown({"name": "a"}, None) == {
        "price": "1.20 EUR",
        "took": "1m30s",
        "state": "dead",
        "more": "here",
    }
    assert declared.blocks({"name": "*a*"}, None)[1] == blocks.Markdown("*a*")
    assert declared.blocks({"nome": "a"}, None) == []


@pytest.mark.parametrize("returned", ["text", {"a set"}, ["text"], [blocks.Text("x"), None], None, 7])
def test_show_that_returns_something_else_says_that_it_failed(returned: object) -> None:
    declared = showing(lambda item, result: returned)
    assert declared.blocks({"name": "a"}, None) == [blocks.Fields({"show": "failed: TypeError"})]
    assert declared.shown({"name": "a"}, None) == {"show": "failed: TypeError"}


def test_fields_whose_text_cannot_be_made_say_so() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RecursionError

    assert showing(lambda item, result: {"a": Broken()}).shown({"name": "a"}, None) == {
        "show": "failed: RecursionError"
    }


def test_a_page_name_that_is_no_path_is_refused() -> None:
    for name in ("Spend", "", "a/b", "-a", "a" * 33):
        with pytest.raises(ValueError, match="page"):
            Plugin("shop", pages={name: DashboardPage("Spend", lambda ctx: [])})
