"""`sytq webhook`: one test delivery from this process, as the task type makes it but without waiting for permits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any

import typer
from dramatiq import Message

from sytq import clock
from sytq.broker.delivery import Delivery, Outcome
from sytq.broker.limiter import Limiter, Permit
from sytq.cli.options import AsJson, File, open_runtime
from sytq.cli.output import as_json, cell
from sytq.executor.async_context import AsyncContext
from sytq.executor.transaction import Transaction
from sytq.ids import new_id
from sytq.runtime import Runtime
from sytq.tasktypes.tasktype import TaskType
from sytq.worker.middleware.retry import decide

from .payload import test_body

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Test a webhook receiver."""


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise typer.BadParameter(f"'{cell(name[:64])}' is not a header; valid: 'Name: value'")
    return name.strip(), value.strip()


@app.command()
def test(
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of the receiver.")],
    body: Annotated[
        str | None, typer.Option("--body", help="Body of the request. Default: a short JSON object.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="HTTP method.")] = "POST",
    headers: Annotated[
        list[Any] | None,
        typer.Option("--header", parser=_header, metavar="'NAME: VALUE'", help="A request header; repeatable."),
    ] = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Send a signed test message and show the response. Exits 1 unless the response is a 2xx."""
    parts = open_runtime(file)
    declared = parts.registry.get("webhook")
    if body is None:
        body = test_body()
    payload = {"url": url, "method": method, "headers": dict(headers or []), "body": body}
    message_id = new_id()
    parts.submitter.prepare("webhook", payload, id=message_id)  # the same checks as on submission
    message = Message[Any](declared.queue, "webhook", (payload,), {}, {}, message_id, int(clock.now() * 1000))
    delivery = Delivery(message, stream="", entry=b"", body=b"", attempts=1, max_attempts=0, token=0)
    outcome = asyncio.run(_run(parts, declared, delivery))
    delivered = outcome.kind == "done"
    if json_wanted:
        as_json({"delivered": delivered, "id": f"msg_{message_id}", "error": outcome.error, **delivery.detail})
    else:
        _print(delivery, outcome)
    raise typer.Exit(0 if delivered else 1)


async def _run(parts: Runtime, declared: TaskType, delivery: Delivery) -> Outcome:
    from sytq.http.client import Client
    from sytq.worker_runtime import task_services

    client = Client(parts.guard, parts.settings.outbound.proxy)
    error: BaseException | None = None
    services = task_services(parts, client, parts.limiters)
    with closing(services):
        try:
            context = _TestContext(services, declared, delivery)
            delivery.result = await declared.function(context, declared.parse(delivery.payload))
        except Exception as raised:
            error = raised
        finally:
            await client.close()
    return decide(declared, delivery, error)


class _TestContext(AsyncContext):
    """Also calls a disabled receiver, waits for no permit, and reports nothing to limiters."""

    async def turn(self) -> None:
        pass

    @asynccontextmanager
    async def acquire(self, *limiters: Limiter, cost: int = 0) -> AsyncIterator[Permit]:
        yield Permit(self.id, 0, 0, limiters, cost)

    async def transaction(self, work: Callable[[Transaction], Any]) -> Any:
        return None  # there is no task to write to


def _print(delivery: Delivery, outcome: Outcome) -> None:
    known = delivery.detail
    lines: dict[str, object] = {"id": f"msg_{delivery.id}", "status": known.get("status")}
    lines["took"] = ", ".join(f"{part} {taken:g} ms" for part, taken in known.get("latency_ms", {}).items())
    if outcome.kind == "retry":
        lines["verdict"] = f"a task would retry in {outcome.delay:g} s: {outcome.error}"
    else:
        lines["verdict"] = "delivered" if outcome.kind == "done" else f"a task would be dead: {outcome.error}"
    lines["headers"] = json.dumps(known["headers"], ensure_ascii=False) if known.get("headers") else None
    lines["body"] = known.get("body")
    lines["cut"] = known.get("cut")
    for name, value in lines.items():
        if value not in (None, ""):
            typer.echo(f"{name:<10}{cell(value)}")
