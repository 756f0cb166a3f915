"""Pages that show every block, hostile values, and what goes wrong."""

import datetime as dt
import time
from decimal import Decimal

from sytq import DashboardPage, Plugin
from sytq.blocks import (
    Action,
    Chart,
    Code,
    Duration,
    Fields,
    Input,
    Json,
    Link,
    Links,
    Markdown,
    Money,
    Size,
    State,
    Table,
    Text,
)
from sytq.errors import InvalidInput

EVIL = "<script>alert(1)</script>"
TIMES = [dt.datetime(2026, 7, 1, hour) for hour in range(3)]


def everything(ctx):
    cells = [
        EVIL,
        1234567,
        0.5,
        True,
        None,
        dt.datetime(2026, 7, 1, 8),
        Money(Decimal("0.0042"), "USD"),
        Money(12, "EUR"),
        Duration(90),
        Size(2048),
        State("dead"),
        Link("a task", "/tasks", {"q": "type:a b"}),
        Link("away", "https://example.com/?a=1&b=2"),
        Link("bad", "javascript:alert(1)"),
        Link("bad too", "https://user:pw@example.com/"),
        float("nan"),
        "password=hunter2",
    ]
    return [
        Fields({"name": EVIL, "api_key": "abc", "none": None, "rtl": "\u202e\u05d0\u05d1"}),
        Table("Cells", [str(n) for n in range(len(cells))], [cells]),
        Table("Nothing", ["a"], [], empty="There is nothing."),
        Table("Many", ["n"], [[n] for n in range(1000)]),
        Text(EVIL),
        Code(EVIL + "\n  two", "js"),
        Markdown("# Title\n\n" + EVIL + " **bold** password=hunter3"),
        Json({"a": [EVIL, {"token": "t0ken"}], "deep": deep(5000)}),
        Json(["x" * 300_000]),
        Json(list(range(5000))),
        Chart("Sales", TIMES, {"tea": [1, None, 3]}, "EUR"),
        Links("Periods", [Link("day", "/x/shop/everything", {"days": "1"}, current=True)]),
        Text(f"days={ctx.parameters.get('days')} owner={ctx.owner} caller={ctx.caller}"),
    ]


def deep(levels):
    value = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def shelves(ctx):
    action = "/x/shop/shelves/order"
    return [
        Table(
            "Shelves",
            ["item", ""],
            [
                ("tea", Action("Order", action, {"item": "tea"}, [Input("count", "How many", "1")])),
                ("salt", Action("Order", action, {"item": "salt"}, [Input("count", "How many", "1")])),
            ],
        ),
        Action("Throw", action, {"item": "all", "count": "none"}, confirm="Sure?"),
    ]


def order(ctx, values):
    if not values["count"].isdecimal():
        raise InvalidInput("count", "not a number")
    return f"{values['count']} {values['item']} for {ctx.caller}"


def fails(ctx):
    raise KeyError(EVIL)


def hangs(ctx):
    time.sleep(4)


def wrong(ctx):
    return {"text": "no blocks"}


def wrong_action(ctx):
    return [Action("Out", "/tasks/1/retry")]


plugin = Plugin(
    "shop",
    pages={
        "everything": DashboardPage("Everything", everything, parameters=("days",)),
        "shelves": DashboardPage("Shelves", shelves, actions={"order": order}),
        "admins": DashboardPage("Admins", lambda ctx: [Text("for admins")], scope="admin", actions={"order": order}),
        "hosts": DashboardPage(
            "Hosts",
            lambda ctx: [Action("Order", "/x/shop/hosts/order")],
            actions={"order": order},
            action_scope="admin",
        ),
        "fails": DashboardPage("Fails", fails),
        "hangs": DashboardPage("Hangs", hangs),
        "wrong": DashboardPage("Wrong", wrong),
        "wrong-action": DashboardPage("Wrong action", wrong_action),
    },
)
