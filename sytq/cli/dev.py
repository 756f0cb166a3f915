"""`sytq dev`: the whole service in this terminal.

Owns the command's options. What it does is sytq.dev.supervisor.
"""

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
    once: Annotated[bool, typer.Option("--once", help="End after the sample; exit 0 when it went through.")] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", parser=_port, metavar="PORT", help="The API's port, 8080 unless configured."),
    ] = None,
) -> None:
    """Run everything here, embedded, with its data in ./.sytq, and one sample valuation through it.

    What the configuration names (database, Redis, provider) is used as configured; the rest is embedded.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a report may have characters that this terminal has not
    raise typer.Exit(asyncio.run(Supervisor(Path(".sytq"), port=port, once=once).run()))
