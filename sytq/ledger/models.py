"""Peewee models of the tables that `sytq.ledger.migrations` creates. All times are naive UTC. Must not hold logic."""

from __future__ import annotations

from peewee import (
    BigAutoField,
    BigIntegerField,
    CharField,
    CompositeKey,
    DateTimeField,
    FloatField,
    IntegerField,
    Model,
    TextField,
)


class Task(Model):
    """One accepted task; the row that a 2xx answer promises."""

    id = CharField(primary_key=True)
    type = CharField()
    queue = CharField(null=True)  # NULL: the type's queue (rows inserted by other languages)
    priority = CharField(null=True)
    state = CharField(default="queued")
    payload = TextField()
    version = IntegerField(null=True)  # of the payload's schema; NULL: the current one (rows of other languages)
    result = TextField(null=True)
    error = TextField(null=True)
    error_fingerprint = CharField(null=True)
    progress = TextField(null=True)
    attempts = IntegerField(default=0)
    max_attempts = IntegerField(null=True)
    token = BigIntegerField(default=0)  # the fencing token: raised by every attempt, writes of an older one are refused
    owner = CharField(null=True)
    parent = CharField(null=True)
    worker = CharField(null=True)
    host = CharField(null=True)  # that the task calls, if its type names one
    ordering_key = CharField(null=True)
    metadata = TextField(null=True)  # the caller's own, as JSON
    callback = TextField(null=True)  # {"url", "headers"} as JSON
    unique_key = CharField(null=True)  # as in sytq_unique, for a replay
    request_id = CharField(null=True)
    traceparent = CharField(null=True)
    held = CharField(null=True)  # waits for dependencies by this rule, see sytq.ledger.dependencies
    created_at = DateTimeField()
    revived_at = DateTimeField(null=True)  # the last replay; the task's age counts from there
    scheduled_at = DateTimeField(null=True)
    started_at = DateTimeField(null=True)
    finished_at = DateTimeField(null=True)

    class Meta:
        table_name = "sytq_tasks"


class Attempt(Model):
    """One attempt of a task, named by its fencing token."""

    task_id = CharField()
    token = BigIntegerField()
    attempt = IntegerField()
    outcome = CharField()
    worker = CharField(null=True)
    error = TextField(null=True)
    status = IntegerField(null=True)  # of the HTTP response
    detail = TextField(null=True)
    started_at = DateTimeField(null=True)
    finished_at = DateTimeField(null=True)
    next_at = DateTimeField(null=True)  # the scheduled start of the next attempt

    class Meta:
        table_name = "sytq_attempts"
        primary_key = CompositeKey("task_id", "token")


class Step(Model):
    """A checkpoint: `state` is started or done; `interrupted` counts attempts that left no result."""

    task_id = CharField()
    name = CharField()
    token = BigIntegerField()
    state = CharField()
    value = TextField(null=True)
    detail = TextField(null=True)
    interrupted = IntegerField(default=0)
    started_at = DateTimeField()
    finished_at = DateTimeField(null=True)

    class Meta:
        table_name = "sytq_steps"
        primary_key = CompositeKey("task_id", "name")


#: The place of a row of `sytq_waits` that is an extension: the child `on_id` extends `task_id`, so that dependents of
#: `task_id` depend on the child too (see `sytq.ledger.dependencies`).
EXTENSION = -1


class Wait(Model):
    """`task_id` depends on `on_id`, at this place among its dependencies; `ended` once that end is handled."""

    task_id = CharField()
    on_id = CharField()
    place = IntegerField()
    ended = IntegerField(default=0)

    class Meta:
        table_name = "sytq_waits"
        primary_key = CompositeKey("task_id", "on_id")


class ScheduleRow(Model):
    """The last submitted tick of a schedule, under which expression, and its pause."""

    name = CharField(primary_key=True)
    last_tick = DateTimeField()
    expression = CharField(null=True)
    paused_at = DateTimeField(null=True)
    paused_by = CharField(null=True)
    paused_why = CharField(null=True)

    class Meta:
        table_name = "sytq_schedules"


class Pause(Model):
    """A paused task type, by whom and why; the type `*` is a hold of the service."""

    type = CharField(primary_key=True)
    paused_at = DateTimeField()
    paused_by = CharField()
    paused_why = CharField()

    class Meta:
        table_name = "sytq_pauses"


class Recorded(Model):
    """The position up to which events are recorded, in one row; see `sytq.ledger.hold`."""

    id = IntegerField(primary_key=True)
    position = BigIntegerField()

    class Meta:
        table_name = "sytq_recorded"


class UniqueKey(Model):
    """The unfinished task that has this key."""

    unique_key = CharField(primary_key=True)
    task_id = CharField()

    class Meta:
        table_name = "sytq_unique"


class ApiKey(Model):
    """An API key; `secret` and `previous` (before a rotation) are SHA-256 in hex."""

    id = CharField(primary_key=True)
    name = CharField()
    owner = CharField()
    secret = CharField()
    previous = CharField(null=True)
    previous_until = DateTimeField(null=True)
    scopes = CharField()  # separated by spaces
    types = CharField(null=True)  # likewise; NULL: every type
    rate_calls = IntegerField(null=True)
    rate_seconds = IntegerField(null=True)
    daily_tasks = IntegerField(null=True)
    created_at = DateTimeField()
    expires_at = DateTimeField(null=True)
    revoked_at = DateTimeField(null=True)
    last_used_at = DateTimeField(null=True)

    class Meta:
        table_name = "sytq_api_keys"


class Session(Model):
    """A session of the dashboard, of a Basic user or an API key; `id` is the SHA-256 of its token in hex."""

    id = CharField(primary_key=True)
    user_name = CharField(null=True)
    key_id = CharField(null=True)
    fingerprint = CharField()  # of the password or of the key's secret, see `sytq.ledger.sessions`
    address = CharField(null=True)
    agent = CharField(null=True)
    created_at = DateTimeField()
    used_at = DateTimeField()
    expires_at = DateTimeField()

    class Meta:
        table_name = "sytq_sessions"


class AuditEntry(Model):
    """Who did what to what, and when."""

    id = BigAutoField()
    at = DateTimeField()
    who = CharField()
    what = CharField()
    about = CharField()
    detail = TextField(null=True)

    class Meta:
        table_name = "sytq_audit"


class Idempotency(Model):
    """The answer of an Idempotency-Key; `answer` is JSON: the ids of its tasks."""

    owner = CharField()
    idempotency_key = CharField()
    fingerprint = CharField()
    answer = TextField()
    created_at = DateTimeField()

    class Meta:
        table_name = "sytq_idempotency"
        primary_key = CompositeKey("owner", "idempotency_key")


class SavedView(Model):
    """A query with a name, of an owner; a shared one is shown to everyone."""

    id = CharField(primary_key=True)
    owner = CharField()
    name = CharField()
    query = TextField()
    shared = IntegerField()
    created_at = DateTimeField()

    class Meta:
        table_name = "sytq_views"


class Figure(Model):
    """What happened within `span` seconds from `since` (Unix seconds) on; see `sytq.ledger.figures`.

    A row that says no queue or priority, as other languages insert it, counts under "", like tasks without an owner.
    """

    span = IntegerField()
    since = BigIntegerField()
    owner = CharField()
    type = CharField()
    queue = CharField()
    priority = CharField()
    accepted = BigIntegerField()
    succeeded = BigIntegerField()
    dead = BigIntegerField()
    cancelled = BigIntegerField()
    retries = BigIntegerField()
    ran = BigIntegerField()  # tasks that ended after a start; the seconds are theirs
    waiting_seconds = FloatField()
    running_seconds = FloatField()

    class Meta:
        table_name = "sytq_figures"
        primary_key = CompositeKey("span", "since", "owner", "type", "queue", "priority")


class Failure(Model):
    """The dead tasks of one cause that ended in the period from `since` (Unix seconds) on; `sample` is one of them."""

    since = BigIntegerField()
    owner = CharField()
    type = CharField()
    fingerprint = CharField()
    tasks = BigIntegerField()
    first_at = DateTimeField()
    last_at = DateTimeField()
    sample = CharField()

    class Meta:
        table_name = "sytq_failures"
        primary_key = CompositeKey("since", "owner", "type", "fingerprint")


class SearchEntry(Model):
    """What a task is found by: a `name` of a query, such as `payload.order_id`, and the value in the form that
    `sytq.ledger.search_values` gives it. `moment` is when the task was created."""

    name = CharField()
    value = CharField()
    moment = DateTimeField()
    task_id = CharField()

    class Meta:
        table_name = "sytq_search"
        primary_key = CompositeKey("name", "value", "moment", "task_id")


class SearchProgress(Model):
    """How far the search index goes; see `sytq.ledger.search_index`."""

    name = CharField(primary_key=True)
    moment = CharField(null=True)  # as text, exactly as the tasks have it
    task_id = CharField(null=True)
    declared_at = DateTimeField(null=True)

    class Meta:
        table_name = "sytq_search_progress"


MODELS = (
    Task, Attempt, Step, Wait, ScheduleRow, Pause, UniqueKey, ApiKey, AuditEntry,
    Idempotency, Recorded, SavedView, Session, Figure, Failure, SearchEntry, SearchProgress,
)  # fmt: skip
