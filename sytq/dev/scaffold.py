"""The file that `sytq plugin new` writes.

Owns its text and what a new type may be called. Must not load anything.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from sytq.errors import InvalidInput
from sytq.tasktypes.registry import Registry

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,49}")
_VALID = "a small letter, then up to 49 small letters, digits, - and _"

_TEXT = '''\
"""Task type `{name}`: says hello."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sytq import Backoff, Context, task
from sytq.testing import TypeSuite


class {noun}Payload(BaseModel):
    """What a task of this type is given; anything else is refused where it is submitted."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)


@task("{name}", payload={noun}Payload, retry=Backoff(first="1s", factor=2, max_attempts=5), timeout="30s")
def {function}(ctx: Context, payload: {noun}Payload) -> dict[str, str]:
    """Say hello."""
    # A step runs once: what it returns is kept, and found again should the task run a second time.
    greeting = ctx.step("greeting", lambda: f"Hello, {{payload.name}}!")
    return {{"greeting": greeting}}


class Test{noun}(TypeSuite):
    """`pytest` on this file, or `sytq plugin check`: the standard tests, and those of its own."""

    type = {function}
    payload = {{"name": "Ada"}}

    def test_it_greets(self) -> None:
        with self.trial() as trial:
            assert trial.run({{"name": "Ada"}}).result == {{"greeting": "Hello, Ada!"}}
'''


def write(name: str, folder: Path, registry: Registry) -> Path:
    """Write the file of a new type and return its path. Raises InvalidInput, also for a name or file that is there."""
    function = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise InvalidInput("NAME", f"'{name[:64]}' is not valid; valid: {_VALID}")
    if keyword.iskeyword(function) or function == "task" or function.startswith("test"):
        raise InvalidInput("NAME", f"'{name}' cannot be the name of its function; valid: another one")
    if name in registry:
        raise InvalidInput("NAME", f"'{name}' is taken, by {registry.get(name).source}; valid: another one")
    file = folder / f"{function}.py"
    noun = "".join(part.capitalize() for part in function.split("_"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(_TEXT.format(name=name, function=function, noun=noun))
    except FileExistsError:
        raise InvalidInput("NAME", f"{file} exists, and is left alone; valid: another name") from None
    except OSError as error:
        raise InvalidInput("--folder", f"{file} cannot be written: {error.strerror}") from None
    return file
