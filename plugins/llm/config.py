"""The sections `providers`, `llm` and `deepseek`: limits, prices, pipelines, tables, status words."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from sytq.config import Section, Settings
from sytq.config.fingerprint import fingerprint
from sytq.config.sections import DEFAULTS, PositiveDuration, Switched
from sytq.config.values import ApiUrl, Count, Identifier, Key, Name, Proxy, Text, WebUrl, problem
from sytq.durations import Duration

from . import finish
from .node import Pipeline

_HOURS = "two times of day in UTC such as 16:30-00:30"

#: Start and end of a period; the end may be on the next day.
Hours = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$"), _HOURS]
#: Six decimals of a price per million tokens keep the cost of one token exact in the ledger.
Money = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=6), "an amount with at most 6 decimals"]


def _api_root(url: str) -> str:
    """The Go service called `base_url` as it is, so files of callers have the whole address of a completion."""
    root, mark, query = url.partition("?")
    return root.rstrip("/").removesuffix("/chat/completions").rstrip("/") + mark + query


#: The root of an OpenAI-compatible API, with the query that its calls have (Azure's `?api-version=...`).
ApiRoot = Annotated[ApiUrl, AfterValidator(_api_root)]


class CircuitBreaker(Switched):
    enabled: bool = True
    max_requests: Count = 2
    interval: PositiveDuration = 60.0
    timeout: PositiveDuration = 120.0
    fail_threshold: float = Field(default=0.5, gt=0, le=1)


class Deepseek(Section):
    api_key: Key | None = None
    base_url: ApiRoot = "https://api.deepseek.com/v1"
    timeout: PositiveDuration = 30.0
    model: Text = "deepseek-chat"
    max_tokens: Count = 2000
    circuit_breaker: CircuitBreaker = DEFAULTS


class Limits(Section):
    """Limits of a provider or one of its models, over all workers; None is no limit."""

    running: Count | None = None
    adaptive: bool = True
    calls: Count | None = None  # started per minute
    tokens: Count | None = None  # of the calls started per minute


class Price(Section):
    """The price of a million tokens, from a day on and for some hours of the day."""

    since: dt.date = dt.date(1970, 1, 1)
    hours: Hours | None = None
    input: Money
    cached: Money | None = None  # None: as input
    output: Money
    reasoning: Money | None = None  # None: as output


class Model(Section):
    """Overrides for one model of a provider."""

    max_tokens: Count | None = None
    extra: dict[str, Any] = {}
    limits: Limits = DEFAULTS
    prices: list[Price] = []


_PLAIN = Model()


def _words(own: dict[str, finish.Meaning]) -> dict[str, finish.Meaning]:
    return {finish.word(name) or finish.NONE: meaning for name, meaning in own.items()}


class Provider(Section):
    base_url: ApiRoot
    api_key: Key | None = None
    model: Text
    max_tokens: Count = 2000
    stream: bool = True
    first_content: PositiveDuration = 60.0
    silence: PositiveDuration = 30.0
    total: PositiveDuration = 300.0
    extra: dict[str, Any] = {}
    finish_reasons: Annotated[dict[str, finish.Meaning], AfterValidator(_words)] = {}
    models: dict[Text, Model] = {}
    limits: Limits = DEFAULTS
    circuit_breaker: CircuitBreaker = DEFAULTS
    balance_url: WebUrl | None = None
    proxy: Proxy | None = Field(default=None, repr=False)
    budget: Money | None = None  # per UTC day

    def address(self, path: str) -> str:
        """The address of a call."""
        root, mark, query = self.base_url.partition("?")
        return f"{root}{path}{mark}{query}"

    @property
    def key(self) -> str:
        """The bearer token; empty when the provider needs none."""
        return (self.api_key or SecretStr("")).get_secret_value()

    @property
    def authorization(self) -> dict[str, str]:
        """The header that carries the key, if there is one."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def of(self, model: str) -> Model:
        """The settings of one model."""
        return self.models.get(model, _PLAIN)


#: Of a provider: what it cannot refuse.
_OWN_LIMITS = frozenset({"limits", "circuit_breaker", "budget"})


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
    # Callers submit every row of the implied table themselves.
    tables: dict[Identifier, Table] = {"valuation_records": Table(pickup=False)}
    row_timeout: Duration = 30.0
    pipelines: dict[Name, Pipeline] = {}
    status_labels: Annotated[StatusLabels, BeforeValidator(_preset), _LABELS] = STATUS_LABELS["en"]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$"), "three capital letters such as USD"] = "USD"
    budgets: dict[Text, Money] = {}

    def budget(self, owner: str) -> Decimal | None:
        """The budget of one owner per UTC day."""
        return self.budgets.get(owner, self.budgets.get("*"))


#: Settings of contract A's section that a provider has by the same name.
_DEEPSEEK = (
    *(f"deepseek.{name}" for name in ("api_key", "base_url", "model", "max_tokens")),
    *(f"deepseek.circuit_breaker.{name}" for name in CircuitBreaker.model_fields),
)


class LlmSettings(Section):
    """The sections; `deepseek` is contract A's form of the provider of that name."""

    deepseek: Deepseek = DEFAULTS
    providers: dict[Name, Provider] = Field(default_factory=dict, validate_default=True)
    llm: Llm = DEFAULTS

    older: ClassVar[Mapping[str, str]] = {
        **{f"providers.{key}": key for key in _DEEPSEEK},
        **{f"providers.deepseek.{name}": "deepseek.timeout" for name in ("first_content", "silence", "total")},
    }

    @field_validator("providers", mode="before")
    @classmethod
    def _deepseek_is_a_provider(cls, providers: object, info: ValidationInfo) -> object:
        block = info.data.get("deepseek") or Deepseek()
        if not isinstance(providers, dict):
            return providers
        own = providers.get("deepseek", {})
        given = bool(block.api_key and block.api_key.get_secret_value()) or "base_url" in block.model_fields_set
        if not isinstance(own, dict) or not (given or "deepseek" in providers):
            return providers
        base: dict[str, Any] = block.model_dump(
            include={"api_key", "base_url", "model", "max_tokens", "circuit_breaker"}
        )
        root = _api_root(str(own.get("base_url", block.base_url))).partition("?")[0].removesuffix("/v1")
        base["balance_url"] = f"{root}/user/balance"
        if "timeout" in block.model_fields_set:
            base |= {"first_content": block.timeout, "silence": block.timeout, "total": max(300.0, block.timeout)}
        return {"deepseek": base | own} | {name: value for name, value in providers.items() if name != "deepseek"}

    @field_validator("llm")
    @classmethod
    def _known_names(cls, llm: Llm, info: ValidationInfo) -> Llm:
        providers = info.data.get("providers")
        if providers is None:
            return llm
        valid = ", ".join(providers) or "none is configured, see providers"
        named = {"provider": llm.provider} | {f"fallback.{n}": name for n, name in enumerate(llm.fallback)}
        for title, nodes in llm.pipelines.items():
            for n, node in enumerate(nodes):
                named[f"pipelines.{title}.{n}.provider"] = node.provider
                named |= {f"pipelines.{title}.{n}.fallback.{i}": name for i, name in enumerate(node.fallback or ())}
        for key, name in named.items():
            if name is not None and name.partition("/")[0] not in providers:
                raise problem("no such provider", valid, key=key, value=name)
        for name, table in llm.tables.items():
            if table.pipeline is not None and table.pipeline not in llm.pipelines:
                known = ", ".join(llm.pipelines) or "none is configured, see llm.pipelines"
                raise problem("no such pipeline", known, key=f"tables.{name}.pipeline", value=table.pipeline)
        return llm

    @property
    def llm_provider(self) -> str | None:
        """The name in `providers` that valuations use; None when no provider is configured."""
        return self.llm.provider or next(iter(self.providers), None)

    @functools.cached_property
    def provider_configurations(self) -> Mapping[str, str]:
        """Provider -> the fingerprint of what its calls are made with, which is what a refusal concerns."""
        nodes = self.llm.model_dump_json(include={"pipelines"})
        return {
            name: fingerprint(f"provider:{name}", provider, nodes, without=_OWN_LIMITS)
            for name, provider in self.providers.items()
        }

    @functools.cached_property
    def llm_budgets(self) -> str:
        """The fingerprint of all budgets."""
        return fingerprint(
            "llm.budgets", {name: provider.budget for name, provider in self.providers.items()}, self.llm.budgets
        )


def warnings(settings: Settings) -> Iterator[str]:
    """Settings that are allowed but probably unintended."""
    own = settings.of(LlmSettings)
    if own.llm_provider is None:
        yield "no provider is configured; LLM tasks cannot run (see providers and deepseek)"
    elif not own.providers[own.llm_provider].api_key:
        yield f"providers.{own.llm_provider}.api_key is not set; requests go out without a key"
