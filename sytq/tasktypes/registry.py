"""The registry: the task types of this installation. Unusable types are quarantined."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import structlog

from sytq.config import Settings
from sytq.errors import ConfigError, DuplicatePlugin, InvalidInput
from sytq.plugins import Plugin, Quarantined
from sytq.schedule import Schedule
from sytq.states import DEFAULT_PRIORITY, DEFAULT_QUEUE
from sytq.tasktypes.backoff import Backoff
from sytq.tasktypes.configured import TypeFactory
from sytq.tasktypes.declaration import Death, Declaration, Role, task
from sytq.tasktypes.resolution import own_config, resolve
from sytq.tasktypes.tasktype import TaskType

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A type with a schedule."""

    type: str
    schedule: Schedule


class Registry:
    """The task types of this installation, resolved: configuration applied, names unique."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._types: dict[str, TaskType] = {}
        self.quarantined: list[Quarantined] = []
        self.schedules: dict[str, Scheduled] = {}

    @classmethod
    def load(cls, settings: Settings, also: Iterable[Declaration] = ()) -> Registry:
        """Load every plugin, and the types of `also` that no plugin brings.

        Raises ConfigError (duplicate names, a `types.*` section without its type).
        """
        registry = cls(settings)
        for folder in settings.plugins.paths:
            if not folder.is_dir():
                raise ConfigError(f"plugins.paths: '{folder}' is not a folder")
        for each in settings.installed.quarantined:
            registry._quarantine(each)
        factories: dict[str, TypeFactory] = {}
        for module in settings.installed.modules:
            factories |= {each.key: each for each in vars(module).values() if isinstance(each, TypeFactory)}
            for declared in declared_in(module):
                try:
                    registry.add(declared)
                except DuplicatePlugin:
                    raise
                except Exception as error:
                    if isinstance(error, ConfigError) and declared.name in settings.types:
                        raise  # the operator's section may be at fault, and the operator sees this
                    registry._quarantine(Quarantined(declared.source, f"{type(error).__name__}: {error}"))
        for declared in also:
            known = registry._types.get(declared.name)
            if known is None or known.function is not declared.function:
                registry.add(declared)
        registry._declare(factories)
        configured = {f"types.{name}": name for name in settings.types}
        configured |= {f"limiters.type:{name}": name for name in settings.limited_types}
        unknown = sorted(key for key, name in configured.items() if name not in registry._types)
        if unknown and not registry.quarantined:
            names = ", ".join(sorted(registry._types))
            valid = f"{names}, or a new one with one of the keys {', '.join(sorted(factories))}"
            raise ConfigError(f"{unknown[0]}: no such task type; valid: {valid}")
        registry.schedules = registry._find_schedules()
        return registry

    def add(self, declared: Declaration) -> None:
        """Add a type, resolved by its `types.<name>` section. Raises DuplicatePlugin, ConfigError."""
        added = self._add(declared)
        if added.on_dead is not None:
            death = task(
                f"{added.name}.dead",
                payload=Death,
                retry=Backoff(first="1s", factor=2, max="1m", max_age="24h"),
                timeout=60.0,
                queue=added.queue,
                priority=added.priority,
                internal=True,
            )
            self._add(Declaration(added.on_dead, death, added.source), config=added.config)

    def _add(self, declared: Declaration, **changes: Any) -> TaskType:
        known = self._types.get(declared.name)
        if known is not None:
            raise DuplicatePlugin(
                f"task type '{declared.name}' is declared twice: in {known.source} and in {declared.source}"
            )
        added = dataclasses.replace(resolve(declared, self._settings), **changes)
        rival = next((each for each in self if each.role is not None and each.role == added.role), None)
        if rival is not None:
            raise DuplicatePlugin(f"task types '{rival.name}' and '{added.name}' both have the role '{added.role}'")
        self._types[added.name] = added
        return added

    def get(self, name: str) -> TaskType:
        """Return a type. Raises InvalidInput listing the valid names."""
        try:
            return self._types[name]
        except KeyError:
            raise InvalidInput(
                "type", f"'{name}' is not a task type; valid: {', '.join(sorted(self._types))}"
            ) from None

    def schedule(self, name: str) -> Scheduled:
        """Return a schedule. Raises InvalidInput listing the valid names."""
        if name not in self.schedules:
            valid = ", ".join(sorted(self.schedules)) or "none is declared"
            raise InvalidInput("schedule", f"'{name[:64]}' is not a schedule; valid: {valid}")
        return self.schedules[name]

    def of_role(self, role: Role) -> TaskType:
        """Return the type with a role. Raises InvalidInput where no plugin brings one."""
        found = next((each for each in self if each.role == role), None)
        if found is None:
            raise InvalidInput("type", f"no task type with the role '{role}' is installed")
        return found

    @property
    def plugins(self) -> Sequence[Plugin]:
        """The installed plugins' parts other than types."""
        return self._settings.installed.plugins

    @property
    def queues(self) -> set[str]:
        """The queues of all types, and the default queue."""
        return {declared.queue for declared in self} | {DEFAULT_QUEUE}

    def queue_of(self, type_name: str) -> str:
        """Return the queue of a type; the default queue for an unknown type."""
        declared = self._types.get(type_name)
        return declared.queue if declared else DEFAULT_QUEUE

    def priority_of(self, type_name: str) -> str:
        """Return the priority of a type; the default priority for an unknown type."""
        declared = self._types.get(type_name)
        return declared.priority if declared else DEFAULT_PRIORITY

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[TaskType]:
        return iter(self._types.values())

    def _declare(self, factories: Mapping[str, TypeFactory]) -> None:
        """Add the types that the configuration alone declares."""
        for name, section in self._settings.types.items():
            keys = [key for key in factories if key in section.extra]
            if name not in self._types and keys:
                factory = factories[keys[0]]
                made = factory.make(name, own_config(self._settings, name, factory.config, section.extra))
                self.add(dataclasses.replace(made, source=f"types.{name}"))

    def _find_schedules(self) -> dict[str, Scheduled]:
        found = {t.name: Scheduled(t.name, t.schedule) for t in self if t.schedule is not None}
        for name, entry in self._settings.schedules.items():
            if not entry.enabled:
                found.pop(name, None)
                continue
            try:
                declared = self.get(entry.type or name)
                declared.parse(entry.payload)
            except InvalidInput as error:
                raise ConfigError(f"schedules.{name}: {error}") from None
            found[name] = Scheduled(declared.name, entry.schedule())
        return found

    def _quarantine(self, plugin: Quarantined) -> None:
        self.quarantined.append(plugin)
        log.error("plugin quarantined", source=plugin.source, error=plugin.error)


def declared_in(module: ModuleType) -> list[Declaration]:
    """Return the types declared in this module rather than imported."""
    found = (each for each in vars(module).values() if isinstance(each, Declaration))
    return [each for each in found if each.function.__module__ == module.__name__]
