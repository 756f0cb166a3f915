"""Task type `default`: returns its payload, for jobs and stream entries that name no type."""

from __future__ import annotations

from typing import Any

from sytq import AsyncContext, task
from sytq.tasktypes.configured import Anything


@task("default", payload=Anything)
async def default(ctx: AsyncContext, payload: Anything) -> dict[str, Any]:
    """Return the payload as the result."""
    return payload.model_dump(mode="json")
