"""Peewee models of our tables.

Owns column names and types as Python sees them (the tables themselves are made by `sytq.ledger.migrations`).
All times are naive UTC. Must not hold logic.
"""

from __future__ import annotations

from peewee import (
    BigAutoField,
    BigIntegerField,
    CharField,
    CompositeKey,
    DateTimeField,
    IntegerField,
    Model,
    TextField,
)


class Task(Model):
    """One accepted task; the row that a 2xx answer promises."""

    id = CharField(primary_key=True)
    type = CharField()
    queue = CharField(null=True)  # NULL: the type's own (rows inserted by other languages)
    priority = CharField(null=True)
    state = CharField(default="queued")
    payload = TextField()
    version = IntegerField(null=True)  # of the payload's form; NULL: the present one (rows of other languages)
    result = TextField(null=True)
    error = TextField(null=True)
    error_fingerprint = CharField(null=True)
    progress = TextField(null=True)
    attempts = IntegerField(default=0)
    max_attempts = IntegerField(null=True)
    token = BigIntegerField(default=0)  # the fencing token: raised by every attempt; an older one has lost the task
    owner = CharField(null=True)
    parent = CharField(null=True)
    worker = CharField(null=True)
    host = CharField(null=True)  # that it calls, if its type names one
    ordering_key = CharField(null=True)
    metadata = TextField(null=True)  # the caller's own, as JSON
    callback = TextField(null=True)  # {"url", "headers"} as JSON
    unique_key = CharField(null=True)  # as in sytq_unique, for a replay
    request_id = CharField(null=True)
    traceparent = CharField(null=True)
    held = CharField(null=True)  # it depends on other tasks, by this rule: see sytq.ledger.dependencies
    created_at = DateTimeField()
    revived_at = DateTimeField(null=True)  # when it was last replayed: its age counts from there
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
    status = IntegerField(null=True)  # of the HTTP answer
    detail = TextField(null=True)
    started_at = DateTimeField(null=True)
    finished_at = DateTimeField(null=True)
    next_at = DateTimeField(null=True)  # when the attempt after it was to start

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


#: The place of a row of `sytq_waits` that is no dependency: the child `on_id` extends `task_id`, so that dependents of
#: the one depend on the other too (see `sytq.ledger.dependencies`).
EXTENSION = -1


class Wait(Model):
    """A dependency: `task_id` waits for `on_id`, at this place among its dependencies; `ended` once that is handled."""

    task_id = CharField()
    on_id = CharField()
    place = IntegerField()
    ended = IntegerField(default=0)

    class Meta:
        table_name = "sytq_waits"
        primary_key = CompositeKey("task_id", "on_id")


class ScheduleRow(Model):
    """The last submitted tick of a schedule, and its pause."""

    name = CharField(primary_key=True)
    last_tick = DateTimeField()
    paused_at = DateTimeField(null=True)
    paused_by = CharField(null=True)
    paused_why = CharField(null=True)

    class Meta:
        table_name = "sytq_schedules"


class Pause(Model):
    """A paused task type, by whom and why."""

    type = CharField(primary_key=True)
    paused_at = DateTimeField()
    paused_by = CharField()
    paused_why = CharField()

    class Meta:
        table_name = "sytq_pauses"


class UniqueKey(Model):
    """The one unfinished task that has this key."""

    unique_key = CharField(primary_key=True)
    task_id = CharField()

    class Meta:
        table_name = "sytq_unique"


class ApiKey(Model):
    """An API key; `secret` and `previous` (the one before a rotation) are SHA-256 in hex."""

    id = CharField(primary_key=True)
    name = CharField()
    owner = CharField()
    secret = CharField()
    previous = CharField(null=True)
    previous_until = DateTimeField(null=True)
    scopes = CharField()  # words with spaces between them
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
    """The answer that a caller's Idempotency-Key repeats; `answer` is JSON: its tasks' ids."""

    owner = CharField()
    idempotency_key = CharField()
    fingerprint = CharField()
    answer = TextField()
    created_at = DateTimeField()

    class Meta:
        table_name = "sytq_idempotency"
        primary_key = CompositeKey("owner", "idempotency_key")


MODELS = (
    Task, Attempt, Step, Wait, ScheduleRow, Pause, UniqueKey, ApiKey, AuditEntry,
    Idempotency,
)  # fmt: skip
