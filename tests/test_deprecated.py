"""Names of 0.1 work until 0.3 and warn."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

import sytq
from sytq import AsyncContext, Context, Limiter, Permit, Waiting
from sytq.cli import app


def test_old_limiter_names_work_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match=r"sytq\.Gate is now sytq\.Limiter"):
        gate = sytq.Gate
    with pytest.warns(DeprecationWarning, match=r"(running|units)= is now (concurrency|cost)="):
        assert gate("provider:p", running=3, units=5) == Limiter("provider:p", concurrency=3, cost=5)
    with pytest.warns(DeprecationWarning, match=r"sytq\.Passage is now sytq\.Permit"):
        assert sytq.Passage is Permit
    permit = Permit("t", 1, 1, [], cost=5)
    with pytest.warns(DeprecationWarning, match="units= is now cost="):
        permit.report("ok", units=7)
    assert permit.cost == 7
    with pytest.warns(DeprecationWarning, match="closed= is now unavailable="):
        waiting = Waiting(1.0, reason="paused", closed=True)
    with pytest.warns(DeprecationWarning, match=r"Waiting\.closed is now Waiting\.unavailable"):
        assert waiting.closed and waiting.unavailable


@pytest.mark.parametrize("kind", [Context, AsyncContext])
def test_old_context_methods_call_the_new_ones_and_warn(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("acquire", "pause_limiter", "resume_limiter"):
        monkeypatch.setattr(kind, name, lambda _self, *args, _name=name, **options: (_name, args, options))
    context: Any = object.__new__(kind)
    with pytest.warns(DeprecationWarning, match=r"ctx\.passage is now ctx\.acquire"):
        assert context.passage("a", "b", units=5) == ("acquire", ("a", "b"), {"cost": 5})
    with pytest.warns(DeprecationWarning, match=r"ctx\.close_gate is now ctx\.pause_limiter"):
        expected = ("pause_limiter", ("a", "why"), {"seconds": 1.0, "alert": False})
        assert context.close_gate("a", "why", seconds=1.0, alert=False) == expected
    with pytest.warns(DeprecationWarning, match=r"ctx\.open_gate is now ctx\.resume_limiter"):
        assert context.open_gate("a") == ("resume_limiter", ("a",), {})


def test_old_command_works_and_is_not_listed() -> None:
    assert CliRunner().invoke(app, ["gates", "--help"]).exit_code == 0
    listed = CliRunner().invoke(app, ["--help"]).stdout
    assert "limiters" in listed and "gates" not in listed
