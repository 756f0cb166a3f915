"""Providers: whether they answer, take the key, and there is money.

Owns what is asked: the balance where a provider has one, else the list of models, which costs nothing anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import requests

from sytq.cli.doctor.finding import FAIL, OK, WARN, Check, Finding
from sytq.config import Provider, Settings

_PATIENCE = 5.0
_MOST = 65536


def providers(settings: Settings) -> dict[str, Check]:
    """A check for each provider, so that none waits for another."""
    return {f"provider {name}": partial(_looked_at, name, provider) for name, provider in settings.providers.items()}


def _looked_at(name: str, provider: Provider, settings: Settings) -> Iterator[Finding]:
    yield _provider(name, provider)


def _provider(name: str, provider: Provider) -> Finding:
    check = f"provider {name}"
    url = provider.balance_url or f"{provider.base_url.rstrip('/')}/models"
    where = f"providers.{name}.{'balance_url' if provider.balance_url else 'base_url'}"
    headers = {"Authorization": f"Bearer {provider.key}"} if provider.key else {}
    try:
        with requests.Session() as session:
            session.trust_env = False  # as workers do: no proxy and no login of the environment
            answer = session.get(url, headers=headers, timeout=_PATIENCE, allow_redirects=False, stream=True)
            body = answer.raw.read(_MOST, decode_content=True)
    except (requests.RequestException, OSError) as error:
        # Its text has the address, and with it whatever stands there.
        said = f"does not answer: {type(error).__name__}"
        return Finding(check, FAIL, said, f"look at the network and at {where}")
    status = answer.status_code
    if status in (401, 403):
        todo = f"correct providers.{name}.api_key; tasks wait until then, and `sytq gates resume` lets them go on"
        return Finding(check, FAIL, f"it refuses the key (HTTP {status})" if provider.key else "it wants a key", todo)
    if status == 402:
        return _without_money(check)
    if status >= 500 or status == 429:
        return Finding(check, WARN, f"it answers HTTP {status}", "nothing, if this ends soon: tasks wait and go on")
    if provider.balance_url is None:
        said = "it takes the key" if status == 200 else f"it answers (HTTP {status}); only a call shows more"
        return Finding(check, OK, said)
    return _balance(check, where, status, body)


def _balance(check: str, where: str, status: int, body: bytes) -> Finding:
    try:
        said: Any = json.loads(body)
        there = " and ".join(f"{info['total_balance']} {info['currency']}" for info in said["balance_infos"])
        if not said["is_available"]:
            return _without_money(check, there)
        return Finding(check, OK, f"it takes the key; balance {there}")
    except (ValueError, KeyError, TypeError):
        if status != 200:
            return Finding(check, WARN, f"the balance cannot be read (HTTP {status})", f"look at {where}")
        return Finding(check, OK, "it takes the key; its balance is in a form of its own")


def _without_money(check: str, there: str = "") -> Finding:
    todo = "pay in; tasks wait until then and go on by themselves"
    return Finding(check, FAIL, f"no credit{f': {there}' if there else ''}", todo)
