"""Reads of a page from both stores at once: what one store does not give, the page names and leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import peewee

from sytq.api.caller import Caller
from sytq.api.parts import Parts
from sytq.errors import DatabaseUnavailable, Overloaded, RedisUnavailable
from sytq.ledger.query import parse


async def gathered(**reads: Awaitable[Any]) -> dict[str, Any]:
    """Return the results by name, None where the store is unavailable; `missing` has a sentence for each such store."""
    results = await asyncio.gather(*reads.values(), return_exceptions=True)
    found: dict[str, Any] = {}
    missing: list[str] = []
    for name, result in zip(reads, results, strict=True):
        found[name] = None if isinstance(result, BaseException) else result
        if isinstance(result, BaseException):
            missing.append(_said(result))
    return found | {"missing": list(dict.fromkeys(missing))}


def _said(error: BaseException) -> str:
    match error:
        case RedisUnavailable():
            return "Redis does not answer: what it knows is missing here."
        case DatabaseUnavailable() | peewee.PeeweeException():
            return "The database does not answer: what it knows is missing here."
        case Overloaded():
            return f"{error}: a part of this page is missing."
    raise error


async def visible(parts: Parts, caller: Caller, ids: Sequence[str]) -> set[str]:
    """Return which of these tasks, which Redis names, the caller may see. Raises DatabaseUnavailable unless all."""
    if caller.is_admin or not ids:
        return set(ids)
    return set(await parts.sql.run(parts.search.matching, caller.limited(parse("")), ids))
