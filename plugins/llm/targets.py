"""The chain of providers and models that a node asks, with their settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sytq import Breaker, Limiter

from .config import LlmSettings, Provider
from .node import Node


@dataclass(frozen=True, slots=True)
class Target:
    """One model of one provider, and how a node asks it; `configured` unless only the task names the model.

    `configuration` is the fingerprint of what the provider is asked with.
    """

    name: str
    provider: Provider
    model: str
    max_tokens: int
    extra: Mapping[str, Any]
    configured: bool
    configuration: str

    @property
    def limiter(self) -> str:
        return named(f"provider:{self.name}")

    @property
    def model_limiter(self) -> str:
        return named(f"model:{self.name}/{self.model}")

    @property
    def limiter_names(self) -> list[str]:
        """The limiters of a call: the provider's, and the model's, which can be paused alone."""
        return [self.limiter, self.model_limiter][: 1 + self.configured]  # callers cannot fill Redis with names

    @property
    def limiters(self) -> list[Limiter]:
        """Those limiters, with their limits."""
        settings = self.provider.circuit_breaker
        breaker = Breaker(**settings.model_dump(exclude={"enabled"})) if settings.enabled else None
        limits = [(self.provider.limits, breaker), (self.provider.of(self.model).limits, None)]
        return [
            Limiter(
                name,
                concurrency=its.running or 0,
                adaptive=its.adaptive,
                calls=its.calls or 0,
                cost=its.tokens or 0,
                breaker=breaker,
                configuration=self.configuration,
            )
            for name, (its, breaker) in zip(self.limiter_names, limits, strict=False)
        ]


def named(name: str) -> str:
    """The name of a limiter."""
    return re.sub(r"[^!-{}~]", "_", name)


def chain(settings: LlmSettings, node: Node, model: str | None) -> list[Target]:
    """The targets for a node, the first choice first; `model` is the task's own. Empty without any provider."""
    name = node.provider or settings.llm_provider
    if name is None:
        return []
    fallback = settings.llm.fallback if node.fallback is None else node.fallback
    targets = [_target(settings, node, name, node.model or model, by_task=node.model is None and model is not None)]
    for entry in fallback:
        name, _, model = entry.partition("/")
        target = _target(settings, node, name, model or None)
        if (target.name, target.model) not in [(known.name, known.model) for known in targets]:
            targets.append(target)
    return targets


def _target(settings: LlmSettings, node: Node, name: str, model: str | None, *, by_task: bool = False) -> Target:
    provider = settings.providers[name]
    model = model or provider.model
    special = provider.of(model)
    return Target(
        name=name,
        provider=provider,
        model=model,
        max_tokens=node.max_tokens or special.max_tokens or provider.max_tokens,
        extra=provider.extra | special.extra | node.extra,
        configured=not by_task or model == provider.model or model in provider.models,
        configuration=settings.provider_configurations[name],
    )
