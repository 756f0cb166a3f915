"""The page of the providers: their limiters with breaker, adaptive limit and pause, balances, and today's cost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sytq import DashboardContext
from sytq.blocks import Action, Block, Cell, Duration, Input, State, Table, Text
from sytq.broker.limiter_states import LimiterState, read_limiters
from sytq.errors import InvalidInput, RedisUnavailable
from sytq.ledger.values import utcnow

from .balances import BALANCES, Balance
from .config import LlmSettings, Provider
from .days import sums
from .spend_page import budgets, cost_of
from .targets import named

_REASON = (Input("reason", "Reason"),)


def providers_page(ctx: DashboardContext) -> list[Block]:
    """Every configured provider and model."""
    own = ctx.settings.of(LlmSettings)
    names = [f"provider:{name}" for name in own.providers]
    names += [
        named(f"model:{name}/{model}")
        for name, provider in own.providers.items()
        for model in dict.fromkeys((provider.model, *provider.models))
    ]
    missing: list[Block] = []
    states: Mapping[str, LimiterState] = {}
    try:
        if names:
            states = {state.name: state for state in read_limiters(ctx.runtime.redis, ctx.runtime.keys, *names)}
    except RedisUnavailable:
        missing = [Text("Redis does not answer: what is running, waiting or paused is not known.")]
    today = utcnow().date()
    found = sums(ctx.runtime.database, today, ctx.owner)
    of = {name: [one for one in found if one.provider == name] for name in own.providers}
    spent = [
        (name, provider.model, sum(one.calls for one in of[name]), cost_of(of[name], own.llm.currency))
        for name, provider in own.providers.items()
    ]
    return [
        *missing,
        Table(
            "Limits", _COLUMNS, [_limits(name, states.get(name)) for name in names], empty="No provider is configured."
        ),
        *(_balances(own.providers) if ctx.owner is None else ()),
        Table("Today (UTC)", ("provider", "model", "calls", "spent"), spent, empty="No provider is configured."),
        budgets(ctx, found, today),
    ]


def _balances(providers: Mapping[str, Provider]) -> list[Block]:
    """What is left on the accounts of the providers that tell it."""
    looked = {name: BALANCES.look(provider) for name, provider in providers.items()}
    rows: list[list[Cell]] = [
        [name, *_balance(balance, failed)] for name, (balance, failed) in looked.items() if balance or failed
    ]
    return [Table("Balance", ("provider", "balance", "has credit", "read", "problem"), rows)] if rows else []


def _balance(balance: Balance | None, failed: str) -> list[Cell]:
    if balance is None:
        return ["not known", None, None, failed]
    has_credit = "yes" if balance.is_available else "no"
    return [str(balance) or "none", has_credit, balance.read_at.replace(tzinfo=dt.UTC), failed or None]


def pause(ctx: DashboardContext, values: Mapping[str, str]) -> str:
    """Pause a provider or a model of one."""
    name, reason = _limiter(ctx, values), values.get("reason", "").strip()
    if not reason:
        raise InvalidInput("reason", "required")
    ctx.runtime.limiters.pause(name, ctx.caller, reason)
    return f"{name} is paused."


def resume(ctx: DashboardContext, values: Mapping[str, str]) -> str:
    """End a pause, whoever began it, and close the circuit breaker."""
    name = _limiter(ctx, values)
    resumed = ctx.runtime.limiters.resume(name)
    return f"{name} is resumed; {resumed.waiting} tasks were waiting." if resumed else f"{name} was not paused."


_COLUMNS = (
    "limiter", "state", "", "why", "until", "running", "limit now", "waiting", "calls", "tokens", "failures", "held",
)  # fmt: skip


def _limits(name: str, state: LimiterState | None) -> list[Cell]:
    if state is None:
        return [name, "not in use", _pause(name), *[None] * 9]
    is_closed = state.state == "closed"
    by = f" (by {state.by})" if state.by else ""
    return [
        name,
        State(state.state),
        _pause(name) if is_closed else Action("Resume", "/x/llm/providers/resume", {"limiter": name}, _REASON),
        None if is_closed else f"{state.reason or ''}{by}",
        dt.datetime.fromtimestamp(state.until, dt.UTC) if state.until else None,
        state.running,
        f"{state.limit_now:,} of {state.limit:,}" if state.limit else "no limit",
        state.waiting,
        _within(state.calls_in_window, state.calls, state.window),
        _within(state.units_in_window, state.units, state.window),
        state.failures,
        None if state.took is None else Duration(state.took),
    ]


def _pause(name: str) -> Action:
    return Action("Pause", "/x/llm/providers/pause", {"limiter": name}, _REASON)


def _within(used: int, limit: int, window: float) -> str | None:
    return f"{used:,} of {limit:,} in {window:g} s" if limit else None


def _limiter(ctx: DashboardContext, values: Mapping[str, str]) -> str:
    """The limiter that a form names, if it is a provider's. Raises InvalidInput."""
    name = values.get("limiter", "")
    kind, _, rest = name.partition(":")
    known = ctx.settings.of(LlmSettings).providers
    if kind not in ("provider", "model") or rest.partition("/")[0] not in known:
        raise InvalidInput(
            "limiter", f"'{name[:100]}' is no provider; valid: {', '.join(known) or 'none is configured'}"
        )
    return name
