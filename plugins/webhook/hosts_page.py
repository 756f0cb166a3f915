"""The page of the webhook hosts: since when a host only fails, what holds it up, pause, resume and a test delivery."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sytq import DashboardContext
from sytq.blocks import Action, Block, Cell, Duration, Input, Link, State, Table, Text
from sytq.broker.limiter_states import LimiterState
from sytq.errors import DatabaseUnavailable, InvalidInput, OutboundRefused, RedisUnavailable
from sytq.http.guard import parse_url

from .hosts import FailingHost
from .payload import test_body

_PREFIX = "host:"
_COLUMNS = ("host", "state", "", "", "only failures since", "why", "until", "running", "waiting", "failures", "held")
_REASON = Input("reason", "Reason")
_MAX_SHOWN = 200


def hosts_page(ctx: DashboardContext) -> list[Block]:
    """The hosts that are in use, paused or failing, those that need a person first."""
    missing: list[Block] = []
    states: dict[str, LimiterState] = {}
    failing: dict[str, dt.datetime] = {}
    try:
        found = ctx.runtime.inspection.limiters()
        states = {state.name: state for state in found if state.name.startswith(_PREFIX)}
    except RedisUnavailable:
        missing.append(Text("Redis does not answer: what is running, waiting or paused is not known."))
    try:
        query = FailingHost.select().order_by(FailingHost.since).limit(_MAX_SHOWN)
        failing = {row.host: row.since for row in ctx.read(lambda database: list(query))}
    except DatabaseUnavailable:
        missing.append(Text("The database does not answer: since when a host only fails is not known."))
    wanted = ctx.parameters.get("q", "")
    names = [name for name in states.keys() | failing.keys() if wanted in name]
    names.sort(key=lambda name: _urgency(name, states.get(name), failing.get(name)))
    rows = [_row(name, states.get(name), failing.get(name)) for name in names[:_MAX_SHOWN]]
    path = "/x/webhook/hosts"
    return [
        *missing,
        Table("Hosts", _COLUMNS, rows, empty="No webhook was sent within the last hour, and no host only fails."),
        Action(
            "Pause a host",
            f"{path}/pause",
            inputs=(Input("host", "Host and port, such as hook.example.com:443"), _REASON),
        ),
        Action("Test delivery", f"{path}/test", inputs=(Input("url", "URL", "https://"),)),
    ]


def pause(ctx: DashboardContext, values: Mapping[str, str]) -> str:
    """Send nothing to a host until it is resumed."""
    host, reason = _host(values), values.get("reason", "").strip()
    if not reason:
        raise InvalidInput("reason", "required")
    ctx.runtime.limiters.pause(f"{_PREFIX}{host}", ctx.caller, reason)
    return f"{host} is paused."


def resume(ctx: DashboardContext, values: Mapping[str, str]) -> str:
    """End a host's pause, whoever began it, and close its circuit breaker."""
    host = _host(values)
    resumed = ctx.runtime.limiters.resume(f"{_PREFIX}{host}")
    return f"{host} is resumed; {resumed.waiting} tasks were waiting." if resumed else f"{host} was not paused."


def test(ctx: DashboardContext, values: Mapping[str, str]) -> Link:
    """Submit a webhook with a harmless body, once; the guard checks its URL as any other's."""
    payload = {
        "url": values.get("url", ""),
        "headers": {"Content-Type": "application/json"},
        "body": test_body(),
        "retry": {"max_attempts": 1},
    }
    try:
        prepared = ctx.runtime.submitter.prepare("webhook", payload, owner=ctx.owner or None, priority="high")
    except InvalidInput as error:
        raise InvalidInput("url", error.message) from None
    ctx.runtime.submitter.submit([prepared])
    return Link(f"The test delivery is task {prepared.id}.", f"/tasks/{prepared.id}")


def _row(name: str, state: LimiterState | None, since: dt.datetime | None) -> list[Cell]:
    host = name.removeprefix(_PREFIX)
    values = {"host": host}
    pausing = Action("Pause", "/x/webhook/hosts/pause", values, (_REASON,))
    url = _url(host, "http" if host.endswith(":80") else "https")
    testing = Action("Test", "/x/webhook/hosts/test", inputs=(Input("url", "URL", url),))
    if state is None:
        return [host, "not in use", pausing, testing, since, *[None] * 6]
    is_closed = state.state == "closed"
    by = f" (by {state.by})" if state.by else ""
    return [
        host,
        State(state.state),
        pausing if is_closed else Action("Resume", "/x/webhook/hosts/resume", values, (_REASON,)),
        testing,
        since,
        None if is_closed else f"{state.reason or ''}{by}",
        dt.datetime.fromtimestamp(state.until, dt.UTC) if state.until else None,
        f"{state.running:,} of {state.limit_now:,}" if state.limit_now else state.running,
        state.waiting,
        state.failures,
        None if state.took is None else Duration(state.took),
    ]


def _urgency(name: str, state: LimiterState | None, since: dt.datetime | None) -> tuple[bool, bool, int, str]:
    return (state is None or state.state == "closed", since is None, -((state and state.waiting) or 0), name)


def _url(host: str, scheme: str = "https") -> str:
    name, _, port = host.rpartition(":")
    return f"{scheme}://[{name}]:{port}/" if ":" in name else f"{scheme}://{host}/"


def _host(values: Mapping[str, str]) -> str:
    """The host and port of a form, as its limiter is named. Raises InvalidInput."""
    host = values.get("host", "").strip().lower()
    try:
        url = parse_url(_url(host))
        if url == url.with_path("/") and f"{url.raw_host}:{url.port}" == host:
            return host
    except OutboundRefused:
        pass
    raise InvalidInput("host", "not a host and port; valid: such as hook.example.com:443")
