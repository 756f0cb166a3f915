"""The form that pauses something for everybody, which needs a reason."""

from __future__ import annotations

from collections.abc import Mapping

from sytq.errors import InvalidInput

_WHY_MAX = 255
#: A pause stops the tasks of all owners.
SCOPES = {"GET": "read", "POST": "admin"}
#: What is said when the ledger has a pause and Redis does not take it: the reconciler repeats it.
LATER = "Redis does not answer; it is recorded, and holds as soon as Redis is back."


def reason(form: Mapping[str, str]) -> str:
    """Return the reason for a pause. Raises InvalidInput."""
    why = " ".join(form.get("why", "").split())
    if not why:
        raise InvalidInput("why", "say why: it is shown wherever the pause is")
    if len(why) > _WHY_MAX:
        raise InvalidInput("why", f"longer than {_WHY_MAX} characters")
    return why
