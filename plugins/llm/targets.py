"""The chain of providers and models that a node asks, with their settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sytq import Breaker, Limiter

from .config import Limits, LlmSettings, Node, Provider


@dataclass(frozen=True, slots=True)
class Target:
    """One model of one provider, and how a node asks it."""

    name: str
    provider: Provider
    model: str
    max_tokens: int
    extra: Mapping[str, Any]

    @property
    def limiter(self) -> str:
        return f"provider:{self.name}"

    @property
    def limiters(self) -> list[Limiter]:
        """The limiters of a call: the provider's, and the model's if it has limits of its own."""
        settings = self.provider.circuit_breaker
        breaker = Breaker(**settings.model_dump(exclude={"enabled"})) if settings.enabled else None
        limiters = [_limiter(self.limiter, self.provider.limits, breaker)]
        special = self.provider.of(self.model).limits
        if special != Limits():
            limiters.append(_limiter(f"model:{self.name}/{self.model}", special, None))
        return limiters


def _limiter(name: str, limits: Limits, breaker: Breaker | None) -> Limiter:
    return Limiter(
        re.sub(r"[^!-{}~]", "_", name),
        concurrency=limits.running or 0,
        adaptive=limits.adaptive,
        calls=limits.calls or 0,
        cost=limits.tokens or 0,
        breaker=breaker,
    )


def chain(settings: LlmSettings, node: Node, model: str | None) -> list[Target]:
    """The targets for a node, the first choice first; `model` is the task's own. Empty without any provider."""
    name = node.provider or settings.llm_provider
    if name is None:
        return []
    fallback = settings.llm.fallback if node.fallback is None else node.fallback
    targets = [_target(settings, node, name, node.model or model)]
    for entry in fallback:
        name, _, model = entry.partition("/")
        target = _target(settings, node, name, model or None)
        if (target.name, target.model) not in [(known.name, known.model) for known in targets]:
            targets.append(target)
    return targets


def _target(settings: LlmSettings, node: Node, name: str, model: str | None) -> Target:
    provider = settings.providers[name]
    model = model or provider.model
    special = provider.of(model)
    return Target(
        name=name,
        provider=provider,
        model=model,
        max_tokens=node.max_tokens or special.max_tokens or provider.max_tokens,
        extra=provider.extra | special.extra | node.extra,
    )
