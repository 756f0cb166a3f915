"""What made-up tasks say: reports, names, and texts that a page must show without being hurt by them."""

from __future__ import annotations

from typing import Any

OWNERS = ("shop-api", "shop-api", "shop-api", "billing", "crm", "mobile", None)
HOSTS = {  # and their share of the webhooks
    "hooks.nordwind.example": 20,
    "api.lagerhaus.example": 15,
    "crm.eichhorn.example": 10,
    "orders.kastanie.example": 14,
    "events.moewe.example": 12,
    "hooks.birke.example": 10,
    "notify.amsel.example": 9,
    "erp.granit.example": 8,
    "shop.kranich.example": 2,
}
EVENTS = ("order.created", "order.paid", "order.shipped", "invoice.sent", "stock.changed", "customer.updated")
GOODS = (
    ("Oak dining table, about 1920", 380, 460),
    ("Mountain bike, aluminium, 2021", 620, 750),
    ("Leica M6, body only, serviced", 2100, 2400),
    ("Upright piano, walnut, 1968", 900, 1300),
    ("Mid-century floor lamp, brass", 140, 190),
    ("Garden house, 3 x 4 m, larch", 1900, 2300),
)


def report(good: tuple[str, int, int], number: int) -> str:
    """A valuation in Markdown."""
    name, low, high = good
    return f"""## {name}

**Estimated value: {low + number % 40} to {high + number % 40} EUR**

| | low | high |
|---|---:|---:|
| private sale | {low} | {high} |
| dealer | {low * 7 // 10} | {high * 7 // 10} |

Reasons:

1. Comparable offers of the last 90 days were between {low - 30} and {high + 50} EUR.
2. The condition is *good*; small marks cost some {5 + number % 7} %.
3. Demand is steady, so that a sale within `30 days` is likely.
"""


def _deep(levels: int) -> Any:
    value: Any = "the bottom"
    for level in range(levels):
        value = {f"level {level}": value} if level % 2 else [value, level]
    return value


#: Payloads of the type `default`.
HOSTILE: tuple[dict[str, Any], ...] = (
    {
        "note": "<script>alert('payload')</script>",
        "picture": "<img src=x onerror=alert(1)>",
        "link": "javascript:alert(1)",
    },
    {"<b>key</b>": {"\"'><svg onload=alert(1)>": "{{ 7 * 7 }} {% include 'x' %} ${7*7} <!-- --> ]]>"}},
    {
        "name": "\u202egnp.exe \u2067שלום עולם\u2069",
        "ملاحظة": "طلب رقم ٧٦٥٤٣٢ من \u202bالعميل\u202c",
        "mixed": "abc אבג 123 دهو",
    },
    {
        "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👋🏿 🇩🇪 e\u0301 ﷽",
        "zalgo": "Z" + "\u0335\u0322\u030d\u0346" * 40 + "algo",
        "wide": "Ｗｉｄｅ　漢字",
    },
    {
        "control": "alarm \u0007, escape \u001b[31mred\u001b[0m, null \u0000, line\u2028separator\r\nand\ttab",
        "bom": "\ufeffx",
    },
    {"text": "All work and no play makes a long text. " * 5120},
    {"word": "x" * 204_800},
    {"deep": _deep(300)},
    {f"key {number:04}": number for number in range(2000)},
    {"list": list(range(5000)), "numbers": [1e308, -0.0, 12345678901234567890, 0.1 + 0.2], "nothing": None, "": ""},
)
#: Errors of tasks.
HOSTILE_ERRORS = (
    "ValueError: <script>alert('error')</script> <a href=//evil.example>click</a>",
    "Fail: \u202eesrever\u202c \u001b[2J " + "very " * 150 + "long",
)
