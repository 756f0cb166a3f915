"""The sections of valuations: providers with their limits and prices, pipelines, tables, status words.

Owns their settings, defaults, and what must hold inside one of them. Must read no file and no environment.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any

import jsonschema
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sytq.config.sections import PositiveDuration, Section
from sytq.config.values import Count, Hours, Identifier, Money, Name, Secret, Template, Text, WebUrl, problem


class CircuitBreaker(Section):
    enabled: bool = True
    max_requests: Count = 2
    interval: PositiveDuration = 60.0
    timeout: PositiveDuration = 120.0
    fail_threshold: float = Field(default=0.5, gt=0, le=1)


class Deepseek(Section):
    api_key: Secret | None = None
    base_url: WebUrl = "https://api.deepseek.com/v1"
    timeout: PositiveDuration = 30.0
    model: Text = "deepseek-chat"
    max_tokens: Count = 2000
    circuit_breaker: CircuitBreaker = CircuitBreaker()


class Limits(Section):
    """What a provider, or one model of it, takes from all workers together; None is no limit."""

    running: Count | None = None
    adaptive: bool = True
    calls: Count | None = None  # begun in any minute
    tokens: Count | None = None  # of the calls begun in any minute


class Price(Section):
    """What a million tokens cost, from a day on and at some hours of the day."""

    since: dt.date = dt.date(1970, 1, 1)
    hours: Hours | None = None
    input: Money
    cached: Money | None = None  # None: as input
    output: Money
    reasoning: Money | None = None  # None: as output


class Model(Section):
    """What is different for one model of a provider."""

    max_tokens: Count | None = None
    extra: dict[str, Any] = {}
    limits: Limits = Limits()
    prices: list[Price] = []


class Provider(Section):
    base_url: WebUrl
    api_key: Secret | None = None
    model: Text
    max_tokens: Count = 2000
    stream: bool = True
    first_content: PositiveDuration = 60.0
    silence: PositiveDuration = 30.0
    total: PositiveDuration = 300.0
    extra: dict[str, Any] = {}
    models: dict[Text, Model] = {}
    limits: Limits = Limits()
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    balance_url: WebUrl | None = None
    budget: Money | None = None  # of one UTC day

    @property
    def key(self) -> str:
        """The bearer token; empty when the provider wants none."""
        return (self.api_key or SecretStr("")).get_secret_value()

    def of(self, model: str) -> Model:
        """The settings of one model."""
        return self.models.get(model) or Model()


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise problem(f"not a JSON schema: {error.message[:200]}", "a JSON schema of draft 2020-12") from None
    return schema


class Node(Section):
    """One question of a pipeline."""

    name: Name
    prompt: Template
    system: Template | None = None
    provider: Name | None = None
    model: Text | None = None
    fallback: list[Text] | None = None  # None: as llm.fallback
    max_tokens: Count | None = None
    extra: dict[str, Any] = {}
    json_schema: Annotated[dict[str, Any], AfterValidator(_schema)] | None = None
    schema_retries: int = Field(default=2, ge=0, le=10)


def _each_name_once(nodes: list[Node]) -> list[Node]:
    names = [node.name for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise problem(f"two nodes are named '{name}'", "each name once")
    return nodes


Pipeline = Annotated[
    list[Node], Field(min_length=1, max_length=50), AfterValidator(_each_name_once), "a list of 1 to 50 nodes"
]


class Table(Section):
    """A table that `table_name` may name."""

    pipeline: Name | None = None
    pickup: bool = True


Label = Annotated[str, Field(min_length=1, max_length=50), "a word of 1 to 50 characters"]


class StatusLabels(Section):
    """The words in the status column, VARCHAR(50) in the callers' own table."""

    pending: Label
    processing: Label
    completed: Label
    failed: Label

    @model_validator(mode="after")
    def _distinct(self) -> StatusLabels:
        words = [self.pending, self.processing, self.completed, self.failed]
        for word in words:
            if words.count(word) > 1:
                raise problem("two states share one word", "four different words", value=word)
        return self


STATUS_LABELS = {
    "en": StatusLabels(pending="pending", processing="processing", completed="completed", failed="failed"),
    "zh": StatusLabels(pending="待处理", processing="处理中", completed="已完成", failed="失败"),
}


def _preset(value: object) -> object:
    if isinstance(value, str):
        if value not in STATUS_LABELS:
            raise problem("no such preset", _LABELS)
        return STATUS_LABELS[value]
    return value


_LABELS = "en, zh, or the four words {pending, processing, completed, failed}"


class Llm(Section):
    provider: Name | None = None
    fallback: list[Text] = []
    # Callers of the table that is there without being named submit every row themselves.
    tables: dict[Identifier, Table] = {"valuation_records": Table(pickup=False)}
    pipelines: dict[Name, Pipeline] = {}
    status_labels: Annotated[StatusLabels, BeforeValidator(_preset), _LABELS] = STATUS_LABELS["en"]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$"), "three capital letters such as USD"] = "USD"
    budgets: dict[Text, Money] = {}

    @property
    def labels(self) -> StatusLabels:
        """The four words to write into the status column."""
        return self.status_labels

    def pipeline(self, table: str) -> list[Node] | None:
        """The nodes of a table's rows; None for the one question that the row itself asks."""
        name = self.tables[table].pipeline
        return self.pipelines[name] if name else None

    def budget(self, owner: str) -> Decimal | None:
        """What one owner may spend in a UTC day."""
        return self.budgets.get(owner, self.budgets.get("*"))
