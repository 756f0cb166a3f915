"""The OpenAPI document is complete, committed as built and served as built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest
from pydantic import BaseModel, TypeAdapter

from sytq.api import create_app
from sytq.api.openapi import document
from sytq.api.openapi.schemas import schemas_of
from sytq.config import load
from sytq.tasktypes.registry import Registry
from tests.installation import Installation
from tests.processes import ROOT

TYPE = """
from pydantic import BaseModel
from sytq import task

class Payload(BaseModel):
    n: int

@task("mine", payload=Payload)
def mine(ctx, payload):
    "It counts."
"""

#: Two plugins may name their models alike, and a model as one of its fields.
ALBUM = """
from pydantic import BaseModel, Field
from sytq import task

class Photo_{name}(BaseModel):
    photo_{name}: list[str] = ["a.png"]
    default: bool = Field(default=False, description="Whether it is the first one")

class Payload(BaseModel):
    album: Photo_{name} | None = None

@task("{name}", payload=Payload)
def {name}(ctx, payload):
    "It collects."
"""


@pytest.fixture(scope="module")
def built() -> Any:
    return document(Registry.load(load(environ={})))


def test_the_committed_document_equals_the_built_document(built: Any) -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))
    assert committed == built, "docs/openapi.json is not what the code says; see the difference after `make openapi`"


def test_the_built_document_is_served_and_its_page_is_self_contained(api: Installation, built: Any) -> None:
    reply = api.request("GET", "/openapi.json")
    assert (reply.status, reply.headers["content-type"], reply.json) == (200, "application/json", built)
    page = api.request("GET", "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"http://" not in page.body and b"https://" not in page.body and b'fetch("openapi.json")' in page.body


def test_exactly_the_routes_are_declared(built: Any) -> None:
    routes = {
        (route.path, method.method.lower())
        for route in falcon.inspect.inspect_routes(create_app(load(environ={})))
        if route.path != "/" and not route.path.startswith("/dashboard")  # pages, not the API
        for method in route.methods
        if method.method in ("GET", "POST", "PUT", "PATCH", "DELETE") and not method.internal
    }
    declared = {(path, method) for path, methods in built["paths"].items() for method in methods}
    assert declared == routes
    names = [op["operationId"] for methods in built["paths"].values() for op in methods.values()]
    assert len(set(names)) == len(names)


def test_head_is_get_without_the_body(api: Installation, built: Any) -> None:
    def asked(method: str, path: str) -> tuple[str, list[str], bytes]:
        """Status line, names of the headers, body."""
        head, _, body = api.raw(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        ).partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        return line, sorted(header.partition(":")[0] for header in headers), body

    for path, methods in built["paths"].items():
        path = path.replace("{task_id}", "0" * 32)
        if "get" in methods and not path.endswith("/events"):  # event streams have no end
            *head, body = asked("GET", path)
            assert body and asked("HEAD", path) == (*head, b""), path
        else:
            assert asked("HEAD", path)[0].startswith("HTTP/1.1 405"), path


def test_p7_every_v2_endpoint_refuses_undeclared_parameters(api: Installation, built: Any) -> None:
    for path, methods in built["paths"].items():
        for method, operation in methods.items() if path.startswith("/v2/") else ():
            reply = api.request(method.upper(), path.replace("{task_id}", "0" * 32) + "?limt=5")
            names = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"]
            said = reply.json["detail"].partition("; valid: ")
            assert (reply.status, said[0]) == (400, "limt: is not a parameter here"), (path, method)
            assert set(said[2].split(", ")) == set(names or ["none"]), (path, method)


def test_new_task_schemas_cover_the_types_and_their_payloads(built: Any, tmp_path: Path) -> None:
    schemas = built["components"]["schemas"]
    mapping = schemas["NewTask"]["discriminator"]["mapping"]
    assert {"callback", "cleanup", "default", "llm", "webhook"} <= set(mapping) and not {"bulk", "llm.dead"} & set(
        mapping
    )
    webhook = schemas["NewTask.webhook"]
    assert webhook["properties"]["type"] == {"const": "webhook"}
    assert webhook["properties"]["payload"] == {"$ref": "#/components/schemas/Webhook"}
    assert webhook["required"] == ["type", "payload"] and schemas["NewTask.default"]["required"] == ["type"]
    assert "unique_key" in webhook["properties"] and "unique_key" not in schemas["NewTask.llm"]["properties"]
    (tmp_path / "mine.py").write_text(TYPE)
    more = document(Registry.load(load(environ={"SYTQ_PLUGINS__PATHS": f'["{tmp_path}"]'})))
    assert more["components"]["schemas"]["NewTask.mine"]["description"] == "It counts."


def test_plugins_models_leave_a_document_for_strict_clients(built: Any, tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        (tmp_path / f"{name}.py").write_text(ALBUM.replace("{name}", name))
    more = document(Registry.load(load(environ={"SYTQ_PLUGINS__PATHS": f'["{tmp_path}"]'})))
    for schemas in (built["components"]["schemas"], more["components"]["schemas"]):
        titles = [schema.get("title", name) for name, schema in schemas.items()]
        assert len(set(titles)) == len(titles)
        for name, schema in schemas.items():
            fields = schema.get("properties", {})
            assert not [field for field in fields if "default" in fields[field]], name
            assert name.lower() not in fields
    photo = schemas["Photo_mineObject"]
    assert "required" not in photo
    said = [photo["properties"][field]["description"] for field in ("photo_mine", "default")]
    assert said == ['Default: ["a.png"]', "Whether it is the first one. Default: false"]
    assert all(part.partition('"')[0].rpartition("/")[2] in schemas for part in json.dumps(more).split('"$ref": "')[1:])


def test_response_has_its_fields_with_a_default() -> None:
    class Shown(BaseModel):
        total: int = 0
        note: str | None = None

    adapter: TypeAdapter[Any] = TypeAdapter(Shown)
    _, schemas = schemas_of([(("a", "200"), "serialization", adapter), (("a", "request"), "validation", adapter)])
    required = sorted(schema.get("required", []) for schema in schemas.values())
    assert required == [[], ["total", "note"]]


def test_every_submission_declares_idempotency_key_and_responses(built: Any) -> None:
    submissions = {
        path: methods["post"]
        for path, methods in built["paths"].items()
        if "post" in methods
        and "{task_id}" not in path  # operations on one task, and pauses, are idempotent
        and not path.endswith(("/pause", "/resume"))
    }
    assert {"/api/tasks/llm", "/api/v1/tasks/llm", "/api/v1/tasks", "/jobs", "/v2/tasks", "/v2/operations"} < set(
        submissions
    )
    for path, operation in submissions.items():
        assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]], path
        assert {"409", "422"} <= set(operation["responses"]), path
        for status, answer in operation["responses"].items():
            assert ("Idempotent-Replayed" in answer["headers"]) == status.startswith("2"), path


def test_every_tag_is_described_and_used(built: Any) -> None:
    used = {tag for methods in built["paths"].values() for operation in methods.values() for tag in operation["tags"]}
    assert {tag["name"] for tag in built["tags"]} == used and all(tag["description"] for tag in built["tags"])


def test_all_references_resolve(built: Any) -> None:
    text = json.dumps(built)
    for part in text.split('"$ref": "')[1:]:
        name = part.partition('"')[0].rpartition("/")[2]
        assert name in built["components"]["schemas"]
