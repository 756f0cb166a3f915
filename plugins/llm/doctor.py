"""Checks providers: connection, key and credit, by the balance endpoint or the list of models, which are free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import requests

from sytq.cli.doctor.finding import FAIL, OK, WARN, Check, Finding
from sytq.config import Settings

from .config import LlmSettings, Provider

_TIMEOUT = 5.0
_MAX_BYTES = 65536


def providers(settings: Settings) -> dict[str, Check]:
    """One check per provider, so that none waits for another."""
    configured = settings.of(LlmSettings).providers.items()
    return {f"provider {name}": partial(_check, name, provider) for name, provider in configured}


def _check(name: str, provider: Provider, settings: Settings) -> Iterator[Finding]:
    yield _provider(name, provider)


def _provider(name: str, provider: Provider) -> Finding:
    check = f"provider {name}"
    url = provider.balance_url or f"{provider.base_url.rstrip('/')}/models"
    where = f"providers.{name}.{'balance_url' if provider.balance_url else 'base_url'}"
    headers = provider.authorization
    try:
        with requests.Session() as session:
            session.trust_env = False  # like workers: no proxy and no credentials from the environment
            answer = session.get(url, headers=headers, timeout=_TIMEOUT, allow_redirects=False, stream=True)
            body = answer.raw.read(_MAX_BYTES, decode_content=True)
    except (requests.RequestException, OSError) as error:
        # The error's text may contain secrets of the URL.
        said = f"does not answer: {type(error).__name__}"
        return Finding(check, FAIL, said, f"check the network and {where}")
    status = answer.status_code
    if status in (401, 403):
        todo = f"correct providers.{name}.api_key; tasks wait until then, and `sytq limiters resume` lets them continue"
        return Finding(
            check,
            FAIL,
            f"the provider refuses the key (HTTP {status})" if provider.key else "the provider requires a key",
            todo,
        )
    if status == 402:
        return _without_money(check)
    if status >= 500 or status == 429:
        return Finding(
            check, WARN, f"the provider answers HTTP {status}", "nothing, if this ends soon: tasks wait and continue"
        )
    if provider.balance_url is None:
        said = (
            "the key is accepted" if status == 200 else f"the provider answers (HTTP {status}); only a call shows more"
        )
        return Finding(check, OK, said)
    return _balance(check, where, status, body)


def _balance(check: str, where: str, status: int, body: bytes) -> Finding:
    try:
        said: Any = json.loads(body)
        there = " and ".join(f"{info['total_balance']} {info['currency']}" for info in said["balance_infos"])
        if not said["is_available"]:
            return _without_money(check, there)
        return Finding(check, OK, f"the key is accepted; balance {there}")
    except (ValueError, KeyError, TypeError):
        if status != 200:
            return Finding(check, WARN, f"the balance cannot be read (HTTP {status})", f"check {where}")
        return Finding(check, OK, "the key is accepted; the balance has an unknown format")


def _without_money(check: str, there: str = "") -> Finding:
    todo = "add credit; tasks wait until then and continue on their own"
    return Finding(check, FAIL, f"no credit{f': {there}' if there else ''}", todo)
