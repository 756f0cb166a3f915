"""The project's folder of plugin files, and the file that `sytq plugin new` writes there. Loads no plugin."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from sytq.errors import InvalidInput
from sytq.tasktypes.registry import Registry

#: The folder of `sytq plugin new` and `sytq dev` unless plugins.paths names another.
HERE = "plugins"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,49}")
_VALID = "a small letter, then up to 49 small letters, digits, - and _"

_TEXT = '''\
"""Task type `{name}`: says hello."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sytq import Backoff, Context, task
from sytq.testing import TypeSuite


class {noun}Payload(BaseModel):
    """The payload; a submission with any other field is refused."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)


@task("{name}", payload={noun}Payload, retry=Backoff(first="1s", factor=2, max_attempts=5), timeout="30s")
def {function}(ctx: Context, payload: {noun}Payload) -> dict[str, str]:
    """Say hello."""
    # A step runs once: its result is stored, and a second run of the task finds it.
    greeting = ctx.step("greeting", lambda: f"Hello, {{payload.name}}!")
    return {{"greeting": greeting}}


class Test{noun}(TypeSuite):
    """Run by `pytest` on this file and by `sytq plugin check`: the standard tests and your own."""

    type = {function}
    payload = {{"name": "Ada"}}

    def test_it_greets(self) -> None:
        with self.harness() as harness:
            assert harness.run({{"name": "Ada"}}).result == {{"greeting": "Hello, Ada!"}}
'''


def here() -> Path | None:
    """The project's folder, or None when it does not exist or is a Python package."""
    folder = Path(HERE).absolute()
    return folder if folder.is_dir() and not (folder / "__init__.py").exists() else None


def write(name: str, folder: Path, registry: Registry) -> Path:
    """Write the file of a new type and return its path. Raises InvalidInput for an invalid or taken name or file."""
    function = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise InvalidInput("NAME", f"'{name[:64]}' is not valid; valid: {_VALID}")
    if keyword.iskeyword(function) or function == "task" or function.startswith("test"):
        raise InvalidInput("NAME", f"'{name}' cannot be a function name; choose another name")
    if name in registry:
        raise InvalidInput("NAME", f"'{name}' is taken by {registry.get(name).source}; choose another name")
    file = folder / f"{function}.py"
    noun = "".join(part.capitalize() for part in function.split("_"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(_TEXT.format(name=name, function=function, noun=noun))
    except FileExistsError:
        raise InvalidInput("NAME", f"{file} already exists; choose another name") from None
    except OSError as error:
        raise InvalidInput("--folder", f"{file} cannot be written: {error.strerror}") from None
    return file
