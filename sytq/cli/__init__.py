"""The command line: `sytq ...`. Turns an error into one message without a traceback."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

import sytq
from sytq.cli.commands import MARKUP, Root
from sytq.errors import ConfigError, SytqError

app = typer.Typer(
    name="sytq",
    cls=Root,
    help="A task queue service for slow and costly work. Start with `sytq dev`, which runs all of it in this terminal.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,  # pretty exceptions print local variables
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sytq {sytq.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. The exit status is 2 for an unusable configuration and 1 for any other failure."""
    gc.set_threshold(100_000, 10, 10)  # imports are not garbage: looking for some takes a tenth of a command's time
    try:
        app()
    except SytqError as error:
        typer.echo(f"sytq: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        import peewee  # imported late: it takes longer than the whole of `sytq --help`

        if not isinstance(error, peewee.PeeweeException):
            raise
        # The server refused: wrong password, missing database or privilege.
        typer.echo(f"sytq: database: {' '.join(str(error.args[-1] if error.args else error).split())}", err=True)
        sys.exit(1)
