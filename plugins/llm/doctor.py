"""Checks providers: connection, key, credit and model, by the balance endpoint and the list of models, which are free.

The calls go the way of a worker's: the same client, proxy and TLS.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Iterator
from functools import partial

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.limiter_states import read_limiters
from sytq.cli.doctor.finding import FAIL, OK, WARN, Check, Finding
from sytq.config import Settings
from sytq.errors import ProxyFailed, RedisUnavailable

from .answer import Answer
from .balances import TIMEOUT, get, parsed
from .config import LlmSettings, Provider
from .envelope import error_in_body
from .policy import POLICIES
from .refusal import classify


def providers(settings: Settings) -> dict[str, Check]:
    """One check per provider, so that none waits for another."""
    configured = settings.of(LlmSettings).providers.items()
    return {f"provider {name}": partial(_check, name, provider) for name, provider in configured}


def _check(name: str, provider: Provider, settings: Settings) -> Iterator[Finding]:
    yield asyncio.run(_provider(name, provider))
    yield from _pauses(name, settings)


async def _provider(name: str, provider: Provider) -> Finding:
    import aiohttp

    from .chat import broken

    check = f"provider {name}"
    url = provider.balance_url or provider.address("/models")
    where = f"providers.{name}.{'balance_url' if provider.balance_url else 'base_url'}"
    try:
        answer = await get(url, provider)
    except TimeoutError:
        return Finding(check, FAIL, f"does not answer within {TIMEOUT:g} s", f"check the network and {where}")
    except (aiohttp.ClientError, OSError, ProxyFailed) as error:
        fault = broken(error, Answer(provider.model, provider.key, ()))
        todo = POLICIES[fault.kind].todo.format(name=name) or f"check the network and {where}"
        return Finding(check, FAIL, f"does not answer: {fault}", todo)
    if answer.ok:
        return (
            _balance(check, where, answer.content) if provider.balance_url else _model(check, provider, answer.content)
        )
    return _refusal(name, where, provider, answer.status_code, answer.content)


def _refusal(name: str, where: str, provider: Provider, status: int, body: bytes) -> Finding:
    check, error = f"provider {name}", error_in_body(body)
    words = Answer(provider.model, provider.key, ()).say(error.words) if error is not None else ""
    kind = classify(status, error, words, provider.model)
    said = f"HTTP {status}{f': {words}' if words else ''}"
    if kind == "unauthorized":
        refused = "the provider refuses the key" if provider.key else "the provider requires a key"
        todo = f"correct providers.{name}.api_key; tasks wait until then, and `sytq limiters resume` lets them continue"
        return Finding(check, FAIL, f"{refused} ({said})", todo)
    if kind == "no_credit":
        return _without_money(check, said)
    if status >= 500 or status == 429:
        return Finding(
            check, WARN, f"the provider answers {said}", "nothing, if this ends soon: tasks wait and continue"
        )
    if kind in ("redirect", "proxy"):
        return Finding(check, FAIL, f"the provider answers {said}", POLICIES[kind].todo.format(name=name))
    if provider.balance_url is not None:
        return Finding(check, WARN, f"the balance cannot be read ({said})", f"check {where}")
    return Finding(check, OK, f"the provider answers (HTTP {status}); only a call shows more")


def _model(check: str, provider: Provider, body: bytes) -> Finding:
    """The key is accepted; a list of models that lacks the configured one says that it is gone."""
    try:
        listed = json.loads(body)
        known = [] if listed.get("has_more") else [str(model["id"]) for model in listed["data"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        known = []
    same = {provider.model, f"{provider.model}:latest", f"models/{provider.model}"}  # Ollama's and Google's names
    if not known or same.intersection(known):
        return Finding(check, OK, "the key is accepted")
    near = difflib.get_close_matches(provider.model, known, 3, 0.3) or known[:3]
    said = f"the key is accepted, but the list of {len(known)} models lacks '{provider.model}', unless it is an alias"
    return Finding(
        check, WARN, said, f"check {check.replace('provider ', 'providers.')}.model; near: {', '.join(near)}"
    )


def _balance(check: str, where: str, body: bytes) -> Finding:
    try:
        balance = parsed(body)
    except ValueError:
        return Finding(check, OK, "the key is accepted; the balance has an unknown format")
    if not balance.is_available:
        return _without_money(check, str(balance))
    return Finding(check, OK, f"the key is accepted; balance {balance}")


def _without_money(check: str, there: str = "") -> Finding:
    todo = "add credit; tasks wait until then and continue on their own"
    return Finding(check, FAIL, f"no credit{f': {there}' if there else ''}", todo)


def _pauses(name: str, settings: Settings) -> Iterator[Finding]:
    """What stopped the calls of the workers: it has the provider's words and what to do."""
    keys = Keys(settings.redis.prefix)
    try:
        redis = Redis(settings.redis.dsn, home=keys.epoch, connections=1, timeout=1.0)
        limiters = read_limiters(redis, keys)
    except RedisUnavailable:
        return  # the check of Redis says so
    for limiter in limiters:
        if limiter.state == "paused" and (
            limiter.name == f"provider:{name}" or limiter.name.startswith(f"model:{name}/")
        ):
            todo = f"do that; then wait some minutes, or `sytq limiters resume {limiter.name}`"
            yield Finding(limiter.name, WARN, f"paused: {limiter.reason}", todo)
