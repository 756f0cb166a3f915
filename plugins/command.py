"""Types with the key `command`: task types that run a program, declared in the configuration alone.

The program gets the payload as JSON on standard input. A placeholder stays within its argument, and no shell is
involved. The program and all processes that it started end with the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from sytq import AsyncContext, Declaration, Fail, Retry, task
from sytq.blocks import Block, Code, Fields, Json
from sytq.config import Section
from sytq.config.masking import mask_text
from sytq.config.values import Size, problem
from sytq.errors import InvalidInput
from sytq.ledger.values import parsed
from sytq.tasktypes.configured import PayloadFields, TypeFactory, check_places, payload_model
from sytq.tasktypes.templates import fill_text, places

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_LAST_WORDS = 2000  # bytes kept of standard error


class CommandType(Section):
    """`types.<name>` with `command`; arguments may have placeholders such as `{order_id}`."""

    command: list[str] = Field(min_length=1)
    environment: dict[str, str] = Field(default={})
    folder: Path | None = None
    max_output: Size = 64 << 10
    dead_on: list[Annotated[int, Field(ge=1, le=255)]] = Field(default=[])
    payload: PayloadFields | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> CommandType:
        if "{" in self.command[0] or not self.command[0]:
            valid = "the program, such as /usr/bin/convert"
            raise problem("the program cannot come from a payload", valid, key="command.0", value=self.command[0])
        check_places(places(self.command), self.payload, "command")
        return self


def _make(name: str, config: CommandType) -> Declaration:
    return task(name, payload=payload_model(name, config.payload), config=CommandType, show=_show)(_run)


command = TypeFactory("command", CommandType, _make)


async def _run(ctx: AsyncContext, payload: BaseModel) -> dict[str, Any]:
    """Run the configured program; exit 0 is success, `dead_on` the end, every other exit is tried again."""
    config: CommandType = ctx.config
    fields = payload.model_dump(mode="json")
    argv = arguments(config.command, fields)
    program = shutil.which(argv[0], path=_PATH)
    if program is None:
        raise Fail(f"command: there is no program {config.command[0]}")
    # With util-linux: the program ends with its worker; another worker runs it again.
    leash = shutil.which("setpriv", path=_PATH)
    loop = asyncio.get_running_loop()
    transport, talk = await loop.subprocess_exec(
        lambda: _Talk(config.max_output),
        *([leash, "--pdeathsig", "KILL", "--"] if leash else []),
        program,
        *argv[1:],
        env={"PATH": _PATH, "LANG": "C.UTF-8", "SYTQ_TASK_ID": ctx.id, "SYTQ_ATTEMPT": str(ctx.attempt)}
        | config.environment,
        cwd=config.folder,
        start_new_session=True,
    )
    try:
        stdin: Any = transport.get_pipe_transport(0)
        stdin.write(json.dumps(fields).encode())
        stdin.close()  # after all is written, or the program has closed it
        await asyncio.shield(talk.exited)
    finally:
        await _end(transport, talk)
    status = transport.get_returncode()
    if status:
        _give_up_or_wait(config, status, talk.words)
    return {"exit": status, "output": _readable(talk.output, config.max_output)}


def _show(payload: BaseModel, result: Any) -> list[Block]:
    if not isinstance(result, dict):
        return []
    output = result.get("output")
    return [Fields({"exit status": result.get("exit")}), Code(output) if isinstance(output, str) else Json(output)]


class _Talk(asyncio.SubprocessProtocol):
    """The beginning of a program's output, the end of its errors, and its exit."""

    def __init__(self, most: int) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()  # both pipes are closed
        self.output = self.words = b""
        self._most = most
        self._open = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.words = (self.words + data)[-_LAST_WORDS:]
        elif len(self.output) <= self._most:  # one byte more shows that the output was cut; the rest is dropped
            self.output = (self.output + data)[: self._most + 1]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open and not self.silent.done():
            self.silent.set_result(None)

    def process_exited(self) -> None:
        self.exited.set_result(None)


async def _end(transport: asyncio.SubprocessTransport, talk: _Talk) -> None:
    """End the program and the processes that it started, which would hold the pipes open."""
    if transport.get_returncode() is None:
        _signal(transport, signal.SIGTERM)
        await asyncio.wait({talk.exited}, timeout=_GRACE)
    _signal(transport, signal.SIGKILL)
    await talk.exited
    await asyncio.wait({talk.silent}, timeout=_GRACE)  # bounded: a process that left the group may keep a pipe open
    transport.close()


def arguments(template: list[str], fields: dict[str, Any]) -> list[str]:
    """Fill the placeholders. Raises InvalidInput for a value that would be read as an option."""
    filled = [fill_text(argument, fields) for argument in template]
    for written, argument in zip(template, filled, strict=True):
        if argument.startswith("-") and not written.startswith("-"):
            raise InvalidInput(
                next(places(written)), "begins with '-', so that the program would take it for an option"
            )
        if "\0" in argument:
            raise InvalidInput(next(places(written)), "NUL cannot stand in an argument")
    return filled


def _give_up_or_wait(config: CommandType, status: int, words: bytes) -> None:
    said = words.decode(errors="replace").strip().rpartition("\n")[2].strip()
    how = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
    reason = f"{config.command[0]}: {how}" + (f": {mask_text(said)[:200]}" if said else "")
    raise Fail(reason) if status in config.dead_on else Retry(reason=reason)


def _signal(transport: asyncio.SubprocessTransport, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), number)


def _readable(output: bytes, most: int) -> Any:
    text = output[:most].decode(errors="replace")
    return f"{text}\n[cut at {most} bytes]" if len(output) > most else parsed(text)
