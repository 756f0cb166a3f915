"""One finding about an installation, as `sytq doctor` and the dashboard show it."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`said` describes what was found, `todo` suggests a fix unless the verdict is ok."""

    check: str
    verdict: str
    said: str
    todo: str = ""
