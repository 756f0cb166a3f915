"""`sytq dev`: the whole service in this terminal."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from sytq.dev.supervisor import Supervisor


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise typer.BadParameter(f"'{text}' is not a port; valid: 1 to 65535")


def dev(
    once: Annotated[bool, typer.Option("--once", help="Exit after the sample task; 0 when it succeeded.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", parser=_port, metavar="PORT", help="Port of the API. Default: the configured port, or 8080."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="TASKS", help="Begin a new database with so many made-up tasks.")
    ] = 0,
) -> None:
    """Run the whole service in this terminal, and one sample valuation through it.

    A configured database, Redis or provider is used as it is. The others are embedded, with their data in ./.sytq.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a report may contain characters that the terminal lacks
    raise typer.Exit(asyncio.run(Supervisor(Path(".sytq"), port=port, once=once, seed=seed).run()))
