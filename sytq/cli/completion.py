"""Candidates for shell completion; an unusable configuration or plugin offers none."""

from __future__ import annotations

import typer

from sytq.config import load
from sytq.errors import SytqError
from sytq.ledger.query.completion import complete
from sytq.ledger.values import utcnow
from sytq.observability import logs
from sytq.tasktypes.registry import Registry


def complete_type(ctx: typer.Context) -> list[str]:
    """The installed task types, without internal ones."""
    registry = _registry(ctx)
    return sorted(declared.name for declared in registry if not declared.internal) if registry else []


def complete_queue(ctx: typer.Context) -> list[str]:
    registry = _registry(ctx)
    return sorted(registry.queues) if registry else []


def complete_query(ctx: typer.Context, incomplete: str) -> list[str]:
    """The fields of a query, and the values of those that have few."""

    def known(field: str, path: tuple[str, ...], typed: str) -> list[str]:
        return complete_type(ctx) if field == "type" else complete_queue(ctx) if field == "queue" else []

    found = complete(incomplete, len(incomplete), known, lambda field: (), utcnow().date())
    return [incomplete[: found.start] + suggestion.text for suggestion in found.suggestions]


def _registry(ctx: typer.Context) -> Registry | None:
    logs.configure("critical", "console", "cli")  # log lines must not appear in the prompt
    try:
        return Registry.load(load(ctx.params.get("file")))
    except SytqError:
        return None
