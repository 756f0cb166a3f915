"""The report as one HTML page: tables and charts in a single file without script and network."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from .figures import Figures

_WIDTH, _HEIGHT, _GAP = 720.0, 160.0, 0.25
_OUTCOMES = ("succeeded", "dead", "cancelled")


def page(figures: Figures) -> str:
    import jinja2

    outcomes = {day: {name: float(group[name]) for name in _OUTCOMES} for day, group in figures.by_day.items()}
    times = {
        name: {"p50": group["run_p50"] or 0.0, "to p95": (group["run_p95"] or 0.0) - (group["run_p50"] or 0.0)}
        for name, group in figures.by_type.items()
    }
    costs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in figures.spend or ():
        costs[row["day"]][row["provider"]] += row["cost"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        figures=figures,
        charts=[
            ("Tasks by day", _chart(outcomes, list(_OUTCOMES), "{:.0f}")),
            ("Run time by type, seconds", _chart(times, ["p50", "to p95"], "{:.3g}")),
            (
                f"LLM spend by day, {figures.currency}",
                _chart(costs, sorted({p for day in costs.values() for p in day}), "{:.4g}"),
            ),
        ],
        width=_WIDTH,
        height=_HEIGHT,
    )


def _chart(stacks: dict[str, dict[str, float]], kinds: list[str], form: str) -> dict[str, Any]:
    """Stacked bars, one per label, each part with its tooltip; `most` labels the top."""
    most = max((sum(parts.values()) for parts in stacks.values()), default=0.0)
    bars: list[dict[str, Any]] = []
    labels: list[tuple[float, str]] = []
    step = _WIDTH / max(len(stacks), 1)
    every = -(-len(stacks) // 12)  # no more labels than fit
    for number, (label, parts) in enumerate(stacks.items()):
        x, y = step * number + step * _GAP / 2, _HEIGHT
        for kind in kinds:
            value = parts.get(kind, 0.0)
            height = _HEIGHT * value / most if most else 0.0
            y -= height
            if height:
                box = {"x": x, "y": y, "width": step * (1 - _GAP), "height": height}
                bar = {name: round(length, 2) for name, length in box.items()}
                bars.append(bar | {"kind": kind, "title": f"{label}: {form.format(value)} {kind}"})
        if number % every == 0:
            labels.append((round(step * (number + 0.5), 2), label))
    return {"bars": bars, "labels": labels, "most": form.format(most), "kinds": kinds}
