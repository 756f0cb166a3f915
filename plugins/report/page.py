"""The report as one HTML page: tables and charts in a single file without script and network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from .figures import Figures

_WIDTH, _HEIGHT, _GAP = 720.0, 160.0, 0.25
_OUTCOMES = ("succeeded", "dead", "cancelled")


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle with its tooltip; `kind` names its colour."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked bars, one per label; `most` labels the top."""

    bars: list[Bar]
    labels: list[tuple[float, str]]
    most: str
    kinds: list[str]


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


def _chart(stacks: dict[str, dict[str, float]], kinds: list[str], form: str) -> Chart:
    most = max((sum(parts.values()) for parts in stacks.values()), default=0.0)
    bars: list[Bar] = []
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
                title = f"{label}: {form.format(value)} {kind}"
                bars.append(Bar(round(x, 2), round(y, 2), round(step * (1 - _GAP), 2), round(height, 2), kind, title))
        if number % every == 0:
            labels.append((round(step * (number + 0.5), 2), label))
    return Chart(bars, labels, form.format(most), kinds)
