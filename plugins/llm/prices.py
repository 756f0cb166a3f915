"""The cost of a call: its usage times the price at that moment, configured or from the library genai-prices."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from .config import Price, Provider
from .spend import Tokens, units

_MILLION = 1_000_000
_FRAME = 1000  # tokens that a provider adds around the messages
_MOST = 10**9  # plausible tokens of one call


def tokens(usage: Mapping[str, Any]) -> Tokens:
    """Parse a provider's usage object; missing or invalid numbers are 0."""
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    # DeepSeek's name, then OpenAI's.
    cached = _count(usage, "prompt_cache_hit_tokens") or _count(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return Tokens(prompt, min(cached, prompt), completion, min(reasoning, completion))


def cost(provider: Provider, model: str, used: Tokens, at: dt.datetime, currency: str) -> int | None:
    """The cost of `used` at the UTC moment `at`, in the unit of spend.py; None when no price is known."""
    price = _price(provider.of(model).prices, at)
    if price is None:
        return _known(provider.base_url, model, used, at) if currency == "USD" else None
    cached = price.input if price.cached is None else price.cached
    reasoning = price.output if price.reasoning is None else price.reasoning
    total = (used.prompt - used.cached) * price.input + used.cached * cached
    total += (used.completion - used.reasoning) * price.output + used.reasoning * reasoning
    return units(total / _MILLION)


def most(provider: Provider, model: str, size: int, max_tokens: int, at: dt.datetime, currency: str) -> int | None:
    """An upper bound for a call with messages of `size` bytes; None when no price is known."""
    price = _price(provider.of(model).prices, at)
    reasons = price is not None and price.reasoning is not None and price.reasoning > price.output
    used = Tokens(size + _FRAME, 0, max_tokens, max_tokens if reasons else 0)  # a token has at least one byte
    return cost(provider, model, used, at, currency)


def _price(prices: list[Price], at: dt.datetime) -> Price | None:
    latest = max((price.since for price in prices if price.since <= at.date()), default=None)
    # A later day replaces all earlier prices, for every hour.
    holding = [price for price in prices if price.since == latest and _in(price.hours, at)]
    return max(holding, key=lambda price: price.hours is not None, default=None)


def _in(hours: str | None, at: dt.datetime) -> bool:
    if hours is None:
        return True
    begin, end = hours.split("-")
    now = f"{at:%H:%M}"
    return begin <= now < end if begin < end else now >= begin or now < end


def _known(base_url: str, model: str, used: Tokens, at: dt.datetime) -> int | None:
    import genai_prices

    usage = genai_prices.Usage(input_tokens=used.prompt, cache_read_tokens=used.cached, output_tokens=used.completion)
    try:
        price = genai_prices.calc_price(usage, model, provider_api_url=base_url, genai_request_timestamp=at)
    except (LookupError, ValueError):
        return None
    return units(Decimal(price.total_price))


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else 0
