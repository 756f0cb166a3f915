"""Candidates for shell completion; an unusable configuration or plugin offers none."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from sytq.config import load
from sytq.errors import SytqError
from sytq.ledger.query.fields import CHOICES, FIELDS, NESTED
from sytq.observability import logs
from sytq.tasktypes.registry import Registry


def complete_type(ctx: typer.Context) -> list[str]:
    """The installed task types, without internal ones."""
    registry = _registry(ctx)
    return sorted(declared.name for declared in registry if not declared.internal) if registry else []


def complete_queue(ctx: typer.Context) -> list[str]:
    registry = _registry(ctx)
    return sorted(registry.queues) if registry else []


def complete_query(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """The fields of a query, and the values of fields that have few."""
    field, colon, _ = incomplete.partition(":")
    if not colon:
        yield from (f"{name}:" for name in FIELDS)
        yield from (f"{name}." for name in NESTED)
    elif field in CHOICES:
        yield from (f"{field}:{value}" for value in CHOICES[field])
    elif field == "type":
        yield from (f"type:{name}" for name in complete_type(ctx))
    elif field == "queue":
        yield from (f"queue:{name}" for name in complete_queue(ctx))


def _registry(ctx: typer.Context) -> Registry | None:
    logs.configure("critical", "console", "cli")  # log lines must not appear in the prompt
    try:
        return Registry.load(load(ctx.params.get("file")))
    except SytqError:
        return None
