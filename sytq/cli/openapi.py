"""`sytq openapi`: the OpenAPI document of this installation, for gateways and generators of clients."""

from __future__ import annotations

import json

import typer

from sytq.api.openapi import document
from sytq.cli.options import File, open_runtime


def openapi(file: File = None) -> None:
    """Print the OpenAPI document, including the installed task types."""
    typer.echo(json.dumps(document(open_runtime(file).registry), ensure_ascii=False, indent=1))
