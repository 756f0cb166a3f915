"""Decides which of database, Redis and provider `sytq dev` embeds, because the configuration does not name them.

The API and the worker get the result as SYTQ_ variables. Starts nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote

from sytq_plugins.llm.config import LlmSettings

from sytq.config import Settings
from sytq.dev.folder import Folder
from sytq.dev.provider import MODEL

PRACTICE = "practice"  # name of the practice provider in `providers`


@dataclass(frozen=True)
class Embedding:
    """The embedded parts of this run; `given` are the configured settings."""

    given: frozenset[str]
    redis: bool
    database: bool
    provider: bool

    def variables(self, folder: Folder, redis_url: str, provider_url: str, port: int) -> dict[str, str]:
        """The variables for the embedded parts, with timings for development."""
        settings = {
            "worker.processes": "1",
            "worker.shutdown_timeout": "3s",
            "api.workers": "1",
            "api.graceful_timeout": "3s",
            # What was tried out last week, and made-up history, can be looked up.
            "queue.retention": "720h",
            # Callbacks may go to a program on this machine.
            "outbound.allow_networks": json.dumps(["127.0.0.0/8", "::1/128"]),
        }
        made = {key: value for key, value in settings.items() if key not in self.given} | {"api.port": str(port)}
        if self.redis:
            made["redis.url"] = redis_url
        if self.database:
            made["database.url"] = f"sqlite:///{quote(str(folder.database))}"
        if self.provider:
            made["llm.provider"] = PRACTICE
            made[f"providers.{PRACTICE}.base_url"] = f"{provider_url}/v1"
            made[f"providers.{PRACTICE}.api_key"] = PRACTICE
            made[f"providers.{PRACTICE}.model"] = MODEL
        if "webhook.secret" not in self.given:
            made["webhook.secret_file"] = str(folder.webhook_secret())
        return {f"SYTQ_{key.upper().replace('.', '__')}": value for key, value in made.items()}


def decide(settings: Settings) -> Embedding:
    """Decide what `settings` lack and is therefore embedded."""
    given = frozenset(settings.origins)
    name = settings.of(LlmSettings).llm_provider
    # A copied configuration names deepseek with an empty key, which never works.
    keyless = False
    if name == "deepseek" and "llm.provider" not in given:
        key = settings.of(LlmSettings).providers[name].api_key
        keyless = not (key and key.get_secret_value())
    return Embedding(
        given=given,
        redis=not any(key.startswith("redis.") and key != "redis.prefix" for key in given),
        database="database.url" not in given and "mysql.dsn" not in given,
        provider=name is None or keyless,
    )
