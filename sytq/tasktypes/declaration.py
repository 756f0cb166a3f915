"""The declaration of a task type, as a plugin writes it: `@task(...)` above a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from pydantic import BaseModel

from sytq.blocks import Block
from sytq.config import Settings
from sytq.config import TaskType as Policy
from sytq.ledger.query.fields import STEP
from sytq.ledger.search_values import MAX_NAME
from sytq.schedule import Schedule
from sytq.states import DEFAULT_PRIORITY, DEFAULT_QUEUE
from sytq.tasktypes.backoff import Backoff

#: What the service itself has done by a type: announcing ends to callbacks, and bulk operations.
Role = Literal["announcement", "operation"]
#: Stands for the type with the role "announcement" where a worker could not load it: a worker with that type runs it.
ANNOUNCEMENT = "role.announcement"


@dataclass(frozen=True)
class Options:
    """The options that mean the same in a declaration and in the task type that an installation runs."""

    name: str
    _: KW_ONLY
    payload: type[BaseModel]
    queue: str = DEFAULT_QUEUE
    priority: str = DEFAULT_PRIORITY
    #: `on_dead(ctx, dead)` runs, as a task of its own, once a task of this type is dead or cancelled. It is plain or
    #: `async` as the function is, and `dead` is a `Death`.
    on_dead: Callable[..., Any] | None = None
    #: When the type is submitted by itself; `schedules.<name>` in the configuration replaces or ends that.
    schedule: Schedule | None = None
    #: `unique(payload)` is a key that one unfinished task of the type has at most: a second submission answers with the
    #: id of the first.
    unique: Callable[[Any], str] | None = None
    #: `url(payload)` is the caller's URL that the task will call: one that the guard refuses is refused at submission.
    url: Callable[[Any], str] | None = None
    #: `order(payload)` is a key (or None) whose tasks a function that awaits `ctx.turn()` runs one after the other.
    order: Callable[[Any], str | None] | None = None
    #: `limiters(payload)` names the limiters that every attempt acquires first, by one `ctx.acquire`: a task is fetched
    #: with a permit of them, and waits in Redis while one has none free. It may have arguments named `settings` and
    #: `config`: the settings and the type's config of the process that submits the task.
    limiters: Callable[..., Sequence[str]] | None = None
    #: `retry_of(payload, policy)` is the policy of one task, made from that of the type.
    retry_of: Callable[[Any, Backoff], Backoff] | None = None
    #: The type is submitted by the service itself and by no client.
    internal: bool = False
    #: The type works on the whole installation, whoever owns the tasks: by HTTP only the scope admin submits it.
    admin_only: bool = False
    #: What the service submits the type for; one type at most has a role. "announcement": a task with `callback` has
    #: ended; the payload is `url`, `headers` and `body`. "operation": a bulk operation, as sytq.service.bulk describes.
    role: Role | None = None
    #: The version of the payload's form, from 1. A task keeps the version it was accepted in; a newer one than the
    #: worker knows waits for a worker that knows it.
    version: int = 1
    #: `upgrade(payload, version)` makes the present form, as a JSON value, of an older payload at each attempt.
    upgrade: Callable[[Any, int], Any] | None = None
    #: Functions of `(ctx, payload)` that return a context manager (an async one for an async type): every attempt is
    #: within them, the first outermost.
    middleware: Sequence[Callable[[Any, Any], Any]] = ()
    #: Paths below the payload (`order_id`, `customer.id`) by whose values people look for tasks: they are indexed.
    search: Sequence[str] = ()
    #: `show(payload, result)` returns what a person wants to see of a task: a few short texts by their names, or blocks
    #: (`sytq.blocks`), of which the dashboard shows all and the API and the command line the `Fields`. The result is
    #: None before there is one.
    show: Callable[[Any, Any], Mapping[str, Any] | Sequence[Block]] | None = None
    #: `panel(ctx, task)` returns blocks that the dashboard shows on the page of a task. `ctx` is a `DashboardContext`,
    #: `task` is what GET /v2/tasks/{id} returns.
    panel: Callable[[Any, Any], Sequence[Block]] | None = None


@dataclass(frozen=True, kw_only=True)
class task(Options):
    """Declare a task type: `function(ctx, payload)`, plain or `async`, returning a JSON value or None."""

    #: The policy, or a function of the settings; None takes contract D's job settings, as for `timeout`.
    retry: Backoff | Callable[[Settings], Backoff] | None = None
    #: How long one attempt may take.
    timeout: float | str | Callable[[Settings], float] | None = None
    #: A model of the type's own keys below `types.<name>`: checked at the start, it is `ctx.config`.
    config: type[BaseModel] | None = None

    def __post_init__(self) -> None:
        version = self.version
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"task type '{self.name}': version {version!r} is not valid; valid: a whole number from 1")
        if self.upgrade is not None and version == 1:
            raise ValueError(
                f"task type '{self.name}': version 1 has no older one for `upgrade`; valid: a version from 2"
            )
        for path in self.search if isinstance(self.search, list | tuple) else [None]:
            if problem := _search_problem(path, self.payload):
                raise ValueError(f"task type '{self.name}': search {path or self.search!r} {problem}")
        taken = set(self.config.model_fields) & set(Policy.model_fields) if self.config else ()
        if taken:
            raise ValueError(
                f"task type '{self.name}': its config cannot have '{min(taken)}', which is a key of the policy"
            )

    def __call__(self, function: Callable[..., Any]) -> Declaration:
        return Declaration(function, self, inspect.getsourcefile(function) or function.__module__)


def _search_problem(path: object, payload: type[BaseModel]) -> str | None:
    """What is wrong with a path below this payload, as the end of a sentence; None if nothing is."""
    if not isinstance(path, str) or not all(re.fullmatch(STEP, step) for step in path.split(".")):
        return "is not valid; valid: a list of names, below each other with dots, as in ['order_id', 'customer.id']"
    if len(f"payload.{path}") > MAX_NAME:
        return f"is longer than {MAX_NAME - len('payload.')} characters"
    model: object = payload
    for step in path.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None  # only a model says what it may have
        if step not in model.model_fields:
            open_ = model.model_config.get("extra") == "allow" or model.__pydantic_root_model__
            return None if open_ else f"is not in the payload; {model.__name__} has {', '.join(model.model_fields)}"
        model = model.model_fields[step].annotation
    return None


@dataclass(frozen=True)
class Declaration:
    """A function with the options of its task type. Calling it calls the function."""

    function: Callable[..., Any]
    options: task
    source: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The name of the task type."""
        return self.options.name


class Death(BaseModel):
    """What `on_dead` receives: the dead task's id, its payload as submitted (in that version), its last error and its
    attempts."""

    task_id: str
    payload: Any
    version: int | None = None
    error: str | None = None
    attempts: int = 0
    cancelled: bool = False
