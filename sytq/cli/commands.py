"""The commands of `sytq`. Each is imported at its first use, so that help and a mistyped command stay fast."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.core import CompletionItem, TyperGroup  # type: ignore[attr-defined]

from sytq.errors import SytqError
from sytq.plugins import Command, commands

#: Plain text, on any terminal and without one.
MARKUP = None

OWN = {
    "send": Command("Tasks", "sytq.cli.send:send", "Submit a task and print its id."),
    "ls": Command("Tasks", "sytq.cli.tasks:ls", "List the latest tasks that match a query."),
    "show": Command("Tasks", "sytq.cli.tasks:show", "Show one task with its attempts and steps."),
    "wait": Command("Tasks", "sytq.cli.wait:wait", "Wait until tasks have ended."),
    "retry": Command("Tasks", "sytq.cli.actions:retry", "Run dead or cancelled tasks again."),
    "cancel": Command("Tasks", "sytq.cli.actions:cancel", "Cancel tasks."),
    "logs": Command("Tasks", "sytq.cli.logs:logs", "Show the events of tasks; follow them live."),
    "tasks": Command("Tasks", "sytq.cli.tasks:app", "Count tasks, show a task tree, reschedule a task."),
    "bulk": Command("Tasks", "sytq.cli.bulk:bulk", "Cancel, retry, reschedule or delete all tasks that match a query."),
    "dead": Command("Tasks", "sytq.cli.dead:app", "List, replay and delete dead tasks."),
    "failures": Command("Observability", "sytq.cli.failures:failures", "Group dead tasks by cause."),
    "queues": Command("Observability", "sytq.cli.queues:app", "Show queues with their running and delayed tasks."),
    "limiters": Command("Observability", "sytq.cli.limiters:app", "List, pause and resume limiters."),
    "top": Command("Observability", "sytq.cli.top:top", "Watch queues, workers, rates and failures live."),
    "stats": Command("Observability", "sytq.cli.stats:stats", "Summarize a period by task type: counts and durations."),
    "dev": Command("Operations", "sytq.cli.dev:dev", "Run the whole service here, with one sample task."),
    "seed": Command("Operations", "sytq.cli.seed:seed", "Make up history for trying things out."),
    "api": Command("Operations", "sytq.cli.serve:api", "Serve the HTTP API with gunicorn."),
    "worker": Command("Operations", "sytq.cli.serve:worker", "Run tasks in Dramatiq worker processes."),
    "doctor": Command("Operations", "sytq.cli.doctor:doctor", "Diagnose the installation and suggest fixes."),
    "config": Command("Operations", "sytq.cli.config:app", "Check and show the configuration."),
    "db": Command("Operations", "sytq.cli.db:app", "Migrate and check the database."),
    "hold": Command("Operations", "sytq.cli.hold:app", "Start no task until somebody has looked at what would run."),
    "restore": Command("Operations", "sytq.cli.restore:restore", "Restore a backup into the configured database."),
    "types": Command("Administration", "sytq.cli.types:app", "Pause and resume task types."),
    "schedules": Command("Administration", "sytq.cli.schedules:app", "List, pause, resume and trigger schedules."),
    "key": Command("Administration", "sytq.cli.key:app", "Create, list, revoke and rotate API keys."),
    "session": Command("Administration", "sytq.cli.session:app", "List and end the sessions of the dashboard."),
    "audit": Command("Administration", "sytq.cli.audit:audit", "Show who changed what."),
    "plugin": Command("Integrations", "sytq.cli.plugin:app", "List, create and check task types."),
    "openapi": Command("Integrations", "sytq.cli.openapi:openapi", "Print the OpenAPI document."),
}
UNLISTED = {"gates": OWN["limiters"]}  # its name before 0.2


class Commands(Mapping[str, Any]):
    """Name -> command. The plugins' commands are looked up only where sytq has none of that name."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    @functools.cached_property
    def listed(self) -> Mapping[str, Command]:
        return OWN | {name: command for name, command in commands().items() if name not in OWN}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _made(name, OWN.get(name) or UNLISTED.get(name) or self.listed[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)


def _made(name: str, command: Command) -> Any:
    module, _, attribute = command.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        if name in OWN or name in UNLISTED:
            raise
        raise SytqError(f"the plugin of '{name}' is broken: {type(error).__name__}: {error}") from error
    around = typer.Typer(add_completion=False, rich_markup_mode=MARKUP, pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name, help=command.help)
    else:
        around.command(name)(found)
    return typer.main.get_group(around).commands[name]


class Root(TyperGroup):
    """The group `sytq`. Its help and its completion import no command."""

    commands: Commands  # type: ignore[assignment]  # a Mapping is enough: nothing adds to it

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        listed = self.commands.listed
        width = max(map(len, listed))
        for section in dict.fromkeys(command.section for command in listed.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (f"{name:{width}}", command.help)
                        for name, command in listed.items()
                        if command.section == section
                    ]
                )

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=command.help)
            for name, command in self.commands.listed.items()
            if name.startswith(incomplete)
        ]
