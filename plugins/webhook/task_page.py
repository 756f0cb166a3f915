"""What the dashboard shows of a webhook: the request without credentials, and its attempts with the responses."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from sytq import DashboardContext
from sytq.blocks import Block, Cell, Code, Duration, Fields, Json, Link, State, Table
from sytq.config.masking import masked

from .payload import Webhook
from .record import without_query

_PARSED = 20_000  # characters of a body that is shown as JSON if it is
_MAX_ATTEMPTS = 50
_EXCERPT = 200


def show(payload: Webhook, result: Any) -> list[Block]:
    """The request; a query of the URL and credentials in headers are hidden."""
    took = result.get("elapsed_ms") if isinstance(result, dict) else None
    found: list[Block] = [
        Fields(
            {
                "request": f"{payload.method} {without_query(payload.url)}",
                "status": result.get("status") if isinstance(result, dict) else None,
                "took": None if took is None else Duration(took / 1000),
                "ordering key": payload.ordering_key,
            }
        )
    ]
    if payload.headers:
        headers = [(name, str(masked(name, value))) for name, value in payload.headers.items()]
        found.append(Table("Headers of the request", ("header", "value"), headers))
    if payload.body:
        found.append(_body(payload.body))
    return found


def panel(ctx: DashboardContext, task: Any) -> list[Block]:
    """The attempts, the latest first, and the latest response."""
    attempts = list(reversed(task["attempts_made"][-_MAX_ATTEMPTS:]))
    count = len(task["attempts_made"])
    some = f"The latest {_MAX_ATTEMPTS} of {count:,} attempts" if count > _MAX_ATTEMPTS else "Attempts"
    columns = ("attempt", "began", "outcome", "status", "took", "until the first byte", "error", "response")
    found: list[Block] = [Table(some, columns, [_attempt(each) for each in attempts], empty="None has ended yet.")]
    answered = next((each["detail"] for each in attempts if _detail(each).get("status")), None)
    if answered:
        found += _response(answered)
    if host := next((_detail(each).get("host") for each in attempts), None):
        found.append(Fields({"host": Link(str(host), "/x/webhook/hosts", {"q": str(host)})}))
    return found


def _attempt(attempt: Any) -> list[Cell]:
    detail = _detail(attempt)
    latency = detail.get("latency_ms") or {}
    began = attempt["started_at"]
    return [
        attempt["attempt"],
        dt.datetime.fromisoformat(began) if began else None,
        State(attempt["outcome"]),
        str(detail.get("status") or ""),
        *(None if latency.get(part) is None else Duration(latency[part] / 1000) for part in ("total", "first_byte")),
        attempt["error"],
        str(detail.get("body") or "")[:_EXCERPT],
    ]


def _response(detail: dict[str, Any]) -> list[Block]:
    found: list[Block] = []
    if headers := detail.get("headers"):
        rows = [(name, str(masked(name, value))) for name, value in headers.items()]
        found.append(Table("Headers of the latest response", ("header", "value"), rows))
    if body := detail.get("body"):
        is_cut = detail.get("body_truncated") or detail.get("cut")
        found.append(Code(str(body), "body of the latest response" + (", its beginning" if is_cut else "")))
    return found


def _detail(attempt: Any) -> dict[str, Any]:
    return attempt["detail"] if isinstance(attempt["detail"], dict) else {}


def _body(text: str) -> Block:
    if len(text) <= _PARSED:
        try:
            return Json(json.loads(text))
        except (ValueError, RecursionError):
            pass
    return Code(text)
