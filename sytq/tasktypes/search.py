"""Checks of the paths by which a task type lets people search."""

from __future__ import annotations

import re

from pydantic import BaseModel

from sytq.ledger.query.fields import STEP
from sytq.ledger.search_values import MAX_NAME

_STEP = re.compile(STEP)


def search_problem(path: object, payload: type[BaseModel]) -> str | None:
    """What is wrong with a path below this payload, as the end of a sentence; None if nothing is."""
    if not isinstance(path, str) or not all(_STEP.fullmatch(step) for step in path.split(".")):
        return "is not valid; valid: a list of names, below each other with dots, as in ['order_id', 'customer.id']"
    if len(f"payload.{path}") > MAX_NAME:
        return f"is longer than {MAX_NAME - len('payload.')} characters"
    model: object = payload
    for step in path.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None  # only a model says what it may have
        if step not in model.model_fields:
            open_ = model.model_config.get("extra") == "allow" or model.__pydantic_root_model__
            return None if open_ else f"is not in the payload; {model.__name__} has {', '.join(model.model_fields)}"
        model = model.model_fields[step].annotation
    return None
