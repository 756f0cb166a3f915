"""What the dashboard shows of a valuation: its report, and its nodes with the calls that were made for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sytq import DashboardContext
from sytq.blocks import Block, Cell, Duration, Fields, Markdown, Size, State, Table, Text

from . import spend
from .config import LlmSettings
from .pipeline import nodes
from .spend import BEGUN, LOST, OK, SpendRow
from .spend_page import amount_of

_MAX_CALLS = 200


def show(payload: Any, result: Any) -> list[Block]:
    """The row, who answered, and the report."""
    of = result if isinstance(result, dict) else {}
    fields: dict[str, Cell] = {"table": payload.table_name, "row": str(payload.id)}
    fields |= {name.replace("_", " "): of.get(name) for name in ("provider", "model", "finish_reason")}
    found: list[Block] = [Fields(fields)]
    if isinstance(of.get("report"), str):
        found.append(Markdown(of["report"]))
    elif of:
        found.append(Text("The report is too long for the result of a task; it is in the row."))
    return found


def panel(ctx: DashboardContext, task: Any) -> list[Block]:
    """The nodes, and the calls where a node took several."""
    query = SpendRow.select().where(SpendRow.task_id == task["id"]).order_by(SpendRow.began_at).limit(_MAX_CALLS)
    calls: list[SpendRow] = ctx.read(lambda database: list(query))
    if not calls:
        return [Text("No provider has been called yet.")]
    names = _names(ctx, task)
    currency = ctx.settings.of(LlmSettings).llm.currency
    steps = sorted({call.step for call in calls}, key=lambda step: int(step.rpartition("-")[2]))
    rows = [_node(names.get(step, step), [call for call in calls if call.step == step], currency) for step in steps]
    found: list[Block] = [
        Table("Nodes", ("node", "provider", "model", "calls", *_NUMBERS, "cost", "took", "state"), rows)
    ]
    if lost := sorted({names.get(call.step, call.step) for call in calls if call.outcome == LOST}):
        found.append(
            Text(
                f"Possibly charged twice: {', '.join(lost)}. An attempt ended between a call and the record of its"
                " answer, so that the call was made again; the cost of the first is not known."
            )
        )
    if len(calls) > len(steps):
        columns = ("began", "node", "provider", "model", *_NUMBERS, "cost", "took", "outcome")
        each = [(call.began_at, names.get(call.step, call.step), *_call([call], currency)) for call in calls]
        found.append(Table("Calls", columns, each))
    return found


_NUMBERS = ("prompt", "tokens in", "cached", "tokens out", "reasoning")


def _node(name: str, calls: Sequence[SpendRow], currency: str) -> list[Cell]:
    provider, model, *rest = _call(calls, currency)
    return [name, provider, model, len(calls), *rest]


def _call(calls: Sequence[SpendRow], currency: str) -> list[Cell]:
    """The last of some calls, with the tokens, cost and duration of all."""
    last = calls[-1]
    known = [call.cost for call in calls if call.cost is not None]
    ended = [(call.ended_at - call.began_at).total_seconds() for call in calls if call.ended_at]
    state = {OK: "succeeded", BEGUN: "running"}.get(last.outcome, last.outcome)
    return [
        last.provider,
        last.model,
        None if last.prompt_bytes is None else Size(last.prompt_bytes),
        *(sum(getattr(call, f"{name}_tokens") for call in calls) for name in spend.Tokens.__slots__),
        amount_of(sum(known), currency) if known else "unknown",
        Duration(sum(ended)) if ended else None,
        State(state),
    ]


def _names(ctx: DashboardContext, task: Any) -> dict[str, str]:
    """Step -> the node's name in the configuration, where the pipeline is still there."""
    own = ctx.settings.of(LlmSettings)
    table = str(task["payload"].get("table_name")) if isinstance(task["payload"], dict) else ""
    if table not in own.llm.tables:
        return {}
    return {f"node-{number}": f"{number + 1} {node.name}" for number, node in enumerate(nodes(own, table))}
