"""How long an attempt may take: as long as every call that it can make."""

from __future__ import annotations

from collections.abc import Sequence

from sytq.config import Settings

from .config import LlmSettings
from .node import Node
from .pipeline import nodes

_MARGIN = 60.0  # seconds beyond the calls: the row's transactions, and a database that is briefly unavailable
_LONGEST = 24 * 3600.0


def timeout_of(settings: Settings) -> float:
    """Time for every call that an attempt can make: each node, each provider of its chain, each repeated question."""
    own = settings.of(LlmSettings)
    total = max((provider.total for provider in own.providers.values()), default=300.0)
    calls = [_calls(own, nodes(own, table)) for table in own.llm.tables]
    return min(total * max(calls, default=1) + _MARGIN, _LONGEST)


def _calls(settings: LlmSettings, plan: Sequence[Node]) -> int:
    chains = [1 + len(settings.llm.fallback if node.fallback is None else node.fallback) for node in plan]
    again = [2 + (node.schema_retries if node.json_schema is not None else 0) for node in plan]
    return sum(chain * times for chain, times in zip(chains, again, strict=True))
