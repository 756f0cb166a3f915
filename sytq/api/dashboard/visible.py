"""Tasks that Redis names: which of them the caller may see."""

from __future__ import annotations

from collections.abc import Sequence

from sytq.api.caller import Caller
from sytq.api.parts import Parts
from sytq.ledger.query import parse


async def visible(parts: Parts, caller: Caller, ids: Sequence[str]) -> set[str]:
    """Return the ids of tasks that the caller may see. Raises DatabaseUnavailable unless these are all."""
    owner = caller.visible_owner
    if owner is None or not ids:
        return set(ids)
    return set(await parts.sql.run(parts.search.matching, parse("").owned_by(owner), ids))
