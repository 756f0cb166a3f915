"""Plugins: what a plugin may bring beside its task types, and where installed plugins are found."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel  # `sytq --help` imports this module, and pydantic is slow to import

    from sytq.blocks import Link

GROUP = "sytq.plugins"
COMMANDS = "sytq.commands"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an error means in which `pattern` (a regular expression) is found, and what to do about it; `docs` is the
    page and heading that say more, such as "runbook.md#tasks-die"."""

    pattern: str
    text: str
    docs: str


@dataclass(frozen=True, eq=False)
class DashboardPage:
    """A page that a plugin adds to the dashboard, at /x/<plugin>/<page>.

    `read(ctx)` returns its blocks (`sytq.blocks`); `ctx` is a `DashboardContext` whose `parameters` are the query
    parameters that `parameters` lists. `actions[name](ctx, values)` runs when a caller presses an `Action` with the
    path /x/<plugin>/<page>/<name>; it returns the sentence to show, or a `Link` to the page that shows it, or raises
    InvalidInput. Reading needs the scope `scope`, an action `action_scope` too: `admin` for what is of all owners.
    """

    title: str
    read: Callable[[Any], Sequence[Any]]
    parameters: Sequence[str] = ()
    actions: Mapping[str, Callable[[Any, Mapping[str, str]], str | Link]] = field(default_factory=dict)
    scope: str = "read"
    action_scope: str = "operate"


@dataclass(frozen=True, eq=False)
class Plugin:
    """What a module brings beside its task types: `plugin = Plugin("shop", ...)` at its top.

    `settings` is a model whose fields are sections of the configuration; `warnings(settings)` yields a sentence for
    each setting that is valid but probably a mistake; `checks(settings)` are the checks of `sytq doctor`, by name.
    `models` are bound to the database and `migrations` is the folder of its numbered migrations (functions
    `up(migrator, db)`), which `sytq db migrate` applies after the core's.
    `loops` run in one worker at a time: `loops["shop.watch"](runtime)` returns a function that is called repeatedly
    and returns the seconds until its next call, or None where there is nothing to do.
    `configurations(runtime)` are the fingerprints (sytq.config.fingerprint) of what calls are made with, such as a
    provider's address and key: each worker announces its own, and a limiter's pause for one of them ends with it.
    `routes()` returns path -> class of an API resource, which is constructed with `sytq.api.parts.Parts` and declares
    its `operations` for the OpenAPI document.
    `explanations` are those of the errors of its task types; the first that fits is shown with a task.
    `pages` are pages of the dashboard by the last part of their path; `overview(ctx)` returns blocks for its overview.
    """

    name: str
    settings: type[BaseModel] | None = None
    warnings: Callable[[Any], Iterator[str]] | None = None
    checks: Callable[[Any], Mapping[str, Callable[[Any], Iterator[Any]]]] | None = None
    models: Sequence[type[Any]] = ()
    migrations: Path | None = None
    loops: Mapping[str, Callable[[Any], Callable[[], float] | None]] = field(default_factory=dict)
    configurations: Callable[[Any], Collection[str]] | None = None
    routes: Callable[[], Mapping[str, Any]] | None = None
    explanations: Sequence[Explanation] = ()
    pages: Mapping[str, DashboardPage] = field(default_factory=dict)
    overview: Callable[[Any], Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", self.name):
            raise ValueError(f"plugin '{self.name}': not a name; valid: a small letter, then small letters, digits, _")
        for name in self.pages:
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
                raise ValueError(
                    f"plugin '{self.name}': page '{name}' is not a name; valid: a small letter, then small letters,"
                    " digits, -"
                )


@dataclass(frozen=True)
class Command:
    """A command that a plugin adds to `sytq`: the target of an entry point of the group `sytq.commands`.

    The entry point's name is the command's. `section` is its heading in `sytq --help`, `help` its line there. `target`
    ("module:name") is a function with Typer's annotations, or a `typer.Typer` for a group of commands. It is imported
    only when the command is given; `sytq --help` imports the module of the Command itself, which should import little.
    """

    section: str
    target: str
    help: str


@dataclass(frozen=True)
class Quarantined:
    """A plugin that could not be loaded; it stops nothing else."""

    source: str
    error: str


@dataclass(frozen=True)
class Installed:
    """The modules of the loaded plugins, and the plugins that failed to load."""

    modules: Sequence[ModuleType] = ()
    quarantined: Sequence[Quarantined] = ()

    @property
    def plugins(self) -> list[Plugin]:
        found = (vars(module).get("plugin") for module in self.modules)
        return list({id(each): each for each in found if isinstance(each, Plugin)}.values())


def find(folders: Iterable[Path], also: Iterable[ModuleType] = ()) -> Installed:
    """Load the modules of the entry-point group and of the folders; the modules in `also` are loaded already."""
    modules, quarantined = list(also), []
    for source, load in _loaders(folders):
        try:
            module = load()
            plugin = vars(module).get("plugin")
            if isinstance(plugin, Plugin) and plugin.settings is not None:
                plugin.settings.model_rebuild()  # a `Section` defers it: an error in it is this plugin's
            if module not in modules:
                modules.append(module)
        except Exception as error:
            quarantined.append(Quarantined(source, f"{type(error).__name__}: {error}"))
    return Installed(modules, quarantined)


def _loaders(folders: Iterable[Path]) -> Iterator[tuple[str, Callable[[], Any]]]:
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name):
        yield f"{point.name} ({point.value})", point.load
    for folder in folders:
        for file in sorted(folder.glob("*.py")):
            yield str(file), lambda file=file: load_file(file)  # type: ignore[misc]


def load_file(file: Path) -> ModuleType:
    """Load a plugin's file as a module. Raises whatever its code raises."""
    name = f"sytq_folder_plugins.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {file}")
    module = importlib.util.module_from_spec(spec)
    # Known by name before it runs, as pydantic resolves annotations there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def commands() -> dict[str, Command]:
    """The commands of the installed packages, by name. One that cannot be loaded says so in its help."""
    found = {}
    for point in sorted(importlib.metadata.entry_points(group=COMMANDS), key=lambda point: point.name):
        try:
            command = point.load()
            if not isinstance(command, Command):
                raise TypeError("not a sytq.Command")
        except Exception as error:
            command = Command("Broken", point.value, f"Cannot be loaded: {type(error).__name__}: {error}")
        found[point.name] = command
    return found
