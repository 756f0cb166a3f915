"""Task type `llm.balance`: pauses a provider that lacks credit, and resumes it once it has credit again.

Calls no model.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from sytq import AsyncContext, Backoff, Retry, task
from sytq.errors import ProxyFailed

from .answer import ChatError
from .balances import parsed
from .config import LlmSettings, Provider
from .policy import POLICIES, describe
from .targets import Target

_LOOK = 30.0
#: Longer than the interval, so that the pause holds between two checks, and ends if the checks stop.
_HOLD = 4 * _LOOK


class Balance(BaseModel):
    """Which of `providers`."""

    model_config = ConfigDict(extra="forbid")

    provider: str


async def pause(ctx: AsyncContext, target: Target, error: ChatError) -> None:
    """Pause the limiter of a provider, or of its model, until a person has done something."""
    policy = POLICIES[error.kind]
    looked_at = error.kind == "no_credit" and target.provider.balance_url is not None
    name = target.model_limiter if policy.of_model else target.limiter
    seconds = _HOLD if looked_at else policy.seconds
    await ctx.pause_limiter(name, describe(target, error), seconds=seconds, configuration=target.configuration)
    if looked_at:
        # One task per provider, however many calls fail at once.
        await ctx.enqueue("llm.balance", {"provider": target.name}, key=f"balance:{target.name}:{ctx.token}")


@task(
    "llm.balance",
    payload=Balance,
    queue="llm",
    priority="high",
    retry=Backoff(first=_LOOK, factor=1, max_attempts=100),
    timeout="30s",
    unique=lambda payload: payload.provider,
    internal=True,
)
async def balance(ctx: AsyncContext, payload: Balance) -> dict[str, Any]:
    """Resume a provider's limiter once its balance endpoint says that there is money."""
    own = ctx.settings.of(LlmSettings)
    provider = own.providers.get(payload.provider)
    limiter = f"provider:{payload.provider}"
    if provider is None or provider.balance_url is None:
        return {"opened": await ctx.resume_limiter(limiter)}
    there = await _is_there(ctx, provider)
    if there is None:
        return {"opened": False, "why": "the balance endpoint gives no balance; a call will tell"}
    if not there:
        reason = f"{payload.provider} has no credit; its balance is looked at every {_LOOK:g} s"
        configuration = own.provider_configurations[payload.provider]
        await ctx.pause_limiter(limiter, reason, seconds=_HOLD, configuration=configuration)
        raise Retry(after=_LOOK, consumes_attempt=False, reason=reason)
    return {"opened": await ctx.resume_limiter(limiter)}


async def _is_there(ctx: AsyncContext, provider: Provider) -> bool | None:
    """Whether there is credit; None when the answer is not in DeepSeek's form."""
    import aiohttp

    headers, url = provider.authorization, provider.balance_url or ""
    try:
        answer = await ctx.http.get(url, headers=headers, timeout=15, trusted=True, proxy=provider.proxy)
    except (TimeoutError, aiohttp.ClientError, ProxyFailed) as error:
        raise Retry(after=_LOOK, consumes_attempt=False, reason=f"no balance: {type(error).__name__}") from None
    if answer.status_code >= 500 or answer.status_code == 429:
        raise Retry(after=_LOOK, consumes_attempt=False, reason=f"no balance: HTTP {answer.status_code}")
    try:
        said = answer.json()
        available = said.get("is_available")  # all that some gateways say
        return available if isinstance(available, bool) else parsed(answer.content).is_available
    except (ValueError, AttributeError):
        return None
