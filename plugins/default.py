"""Task type `default`: records what it was given.

It is what a job or a stream gets that names no type: the payload becomes the result, so that a caller sees it go
through before there is a type that does something with it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from sytq import AsyncContext, task


class Anything(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow")


@task("default", payload=Anything)
async def default(ctx: AsyncContext, payload: Anything) -> dict[str, Any]:
    """Return the payload as the result."""
    return payload.model_dump(mode="json")
