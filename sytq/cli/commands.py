"""A command group that imports each command at its first use, so that help and a mistyped command stay fast."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import CompletionItem, TyperGroup  # type: ignore[attr-defined]

#: Plain text, on any terminal and without one.
MARKUP = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is ("module:function", or "module:app" for a group; a module without dots is in `sytq.cli`),
    and its line in the list."""

    where: str
    help: str


class Commands(Mapping[str, Any]):
    """Name -> command. A command is imported at its first use; `unlisted` ones are found, not listed."""

    def __init__(self, places: Mapping[str, Place], unlisted: Mapping[str, Place]) -> None:
        self.places = places
        self._found = {**places, **unlisted}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _made(name, self._found[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _made(name: str, place: Place) -> Any:
    module, _, attribute = place.where.partition(":")
    found = getattr(importlib.import_module(module if "." in module else f"sytq.cli.{module}"), attribute)
    around = typer.Typer(add_completion=False, rich_markup_mode=MARKUP, pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name, help=place.help)
    else:
        around.command(name)(found)
    return typer.main.get_group(around).commands[name]


class LazyGroup(TyperGroup):
    """A group with its commands in `sections`: title -> name -> place. `unlisted` ones work and are not listed."""

    sections: Mapping[str, Mapping[str, Place]] = {}
    unlisted: Mapping[str, Place] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        places = {name: place for section in self.sections.values() for name, place in section.items()}
        self.commands = Commands(places, self.unlisted)  # type: ignore[assignment]  # a Mapping is enough: nothing adds to it

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", place.help) for name, place in section.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=place.help)
            for section in self.sections.values()
            for name, place in section.items()
            if name.startswith(incomplete)
        ]
