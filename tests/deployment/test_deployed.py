"""Services configured by Compose and the manifests serve authenticated remote clients."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
import yaml

from sytq import config
from sytq.api import create_app
from sytq.runtime import build
from tests.tables import make_tables
from tests.terminal import sytq

ROOT = Path(__file__).parents[2]
IMAGE = dict(re.findall(r"(SYTQ_\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
PEER = "172.18.0.1"  # the peer address that a container sees for a client on its host: never loopback


def of_compose(folder: Path) -> dict[str, str]:
    """The API's environment after `cp .env.example .env`."""
    file = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["api"]
    assert [one["path"] for one in service["env_file"]] == [".env"]

    def given(found: re.Match[str]) -> str:
        assert file.get(found[1]) or found[2] is not None, f"{found[1]}: compose refuses to start"
        return file.get(found[1]) or found[2]

    said = {
        name: re.sub(r"\$\{(\w+)(?::-([^}]*))?[^}]*\}", given, value) for name, value in service["environment"].items()
    }
    return file | said


def of_kubernetes(folder: Path) -> dict[str, str]:
    base = ROOT / "deploy/k8s"
    file = folder / "sytq.yaml"
    file.write_text(yaml.safe_load((base / "base/config.yaml").read_text())["data"]["sytq.yaml"])
    secret: dict[str, str] = yaml.safe_load((base / "secret.yaml").read_text())["stringData"]
    return secret | {"SYTQ_CONFIG": str(file)}


@pytest.mark.parametrize("deployment", [of_compose, of_kubernetes], ids=lambda one: one.__name__.removeprefix("of_"))
def test_remote_client_is_served_only_with_a_key(deployment: Any, tmp_path: Path, redis_url: str) -> None:
    environ = IMAGE | deployment(tmp_path)
    settings = config.load(environ=environ)
    assert settings.api.host == "0.0.0.0"
    assert not settings.auth.users, "nobody can guess a password that everybody got"
    environ |= {"SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}", "SYTQ_REDIS__URL": redis_url}
    settings = config.load(environ=environ)
    make_tables(build(settings).database)
    made = sytq("key", "create", "shop", environ=environ, cwd=tmp_path)
    key = re.search(r"sytq_\S+", made.stdout)
    assert key, made.stderr
    app = create_app(settings)

    async def from_elsewhere(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["client"] = (PEER, 40000)
            scope["headers"] = [tuple(pair) for pair in scope["headers"]]  # Falcon's iterator can be read only once
        await app(scope, receive, send)

    async def answers() -> list[int]:
        async with falcon.testing.ASGIConductor(from_elsewhere) as client:
            asked = [
                await client.simulate_post("/api/v1/tasks", json={"url": "https://example.com/"}, headers=headers)
                for headers in ({}, {"Authorization": f"Bearer {key[0]}"})
            ]
        return [reply.status_code for reply in asked]

    assert asyncio.run(answers()) == [401, 200]
