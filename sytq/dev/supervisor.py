"""The supervisor of `sytq dev`: starts all parts of the service in order, restarts dead ones, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from sytq_plugins.llm.config import LlmSettings
from sytq_plugins.webhook.config import WebhookSettings

from sytq import runtime
from sytq.broker.rights import check_rights
from sytq.config import Settings, load
from sytq.dev import sample, snippets
from sytq.dev.embedding import Embedding, decide
from sytq.dev.folder import DevError, Folder
from sytq.dev.listening import check_port, serving, url
from sytq.dev.process import Child, Guard
from sytq.dev.provider import PracticeProvider
from sytq.dev.receiver import Receiver
from sytq.dev.reload import Saved
from sytq.dev.seed import figures
from sytq.dev.seed.rows import Rows
from sytq.dev.seed.stories import Stories
from sytq.embedded import EmbeddedServer, find_server
from sytq.errors import RedisUnavailable
from sytq.exit_status import describe
from sytq.ledger.migrations import migrate
from sytq.ledger.values import utcnow
from sytq.runtime import Runtime
from sytq.worker.restarts import Restarts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_DEADLINE = 60.0  # seconds until API and worker answer
_SAMPLE_DEADLINE = 60.0  # seconds; a real provider may take longer
_MAX_PAUSE = 10.0  # seconds before a restart, at most: somebody is watching
_EXTRA = 2.5  # seconds beyond a server's own grace period before it is killed


class Supervisor:
    """`seed` is the number of tasks that are made up in a new embedded database."""

    def __init__(self, folder: Path, port: int | None = None, once: bool = False, seed: int = 0) -> None:
        self._folder = Folder(folder)
        self._seed = seed
        self._port = port
        self._once = once
        self._stopped_by: int | None = None
        self._ending = False
        self._children: list[Child] = []
        self._environ: dict[str, str] = dict(os.environ)

    async def run(self) -> int:
        """Run until a signal or, with `once`, the end of the sample. Returns the exit status. Raises SytqError."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in SIGNALS:
            # nohup ignores SIGHUP on purpose; SIGINT is ignored by accident in every background job of a script.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number, task)
        try:
            async with contextlib.AsyncExitStack() as stack:
                return await self._run(stack)
        except asyncio.CancelledError:
            if self._stopped_by is None:
                raise
            return 128 + self._stopped_by if self._once else 0
        finally:
            if self._children:
                _say("Everything has ended.")

    def _on_signal(self, number: int, task: asyncio.Task[int]) -> None:
        if not self._ending:
            self._ending, self._stopped_by = True, number
            _say(f"\n{signal.Signals(number).name}: ending worker, API and Redis (again: at once) ...")
            task.cancel()
        else:
            for child in self._children:
                child.kill()

    async def _run(self, stack: contextlib.AsyncExitStack) -> int:
        given = load()
        embedding = decide(given)
        self._folder.claim()
        stack.callback(self._folder.release)
        for name in ("worker", "api"):
            if Child(name, [], self._folder).end_leftover():
                _say(f"ended the {name} that an earlier, killed run had left")
        port = self._port or given.api.port
        check_port(given.api.host, port)
        _say(f"sytq dev in {self._folder.path}")

        server = self._start_redis(stack) if embedding.redis else None
        practice = await stack.enter_async_context(serving(PracticeProvider().app)) if embedding.provider else ""
        configured = [folder.absolute() for folder in given.plugins.paths]
        saved = Saved(configured if "plugins.paths" in embedding.given else None)
        made = embedding.variables(self._folder, server.url if server else "", practice, port)
        made |= saved.variables()
        self._folder.write_env(made)
        # API and worker share a folder, so that /metrics of the API covers both.
        self._environ |= made | {"PROMETHEUS_MULTIPROC_DIR": str(self._folder.metrics)}
        settings = load(environ=self._environ)
        parts = runtime.build(settings)
        stack.callback(parts.redis.close)
        await self._prepare_stores(parts, embedding)
        _say_provider(settings, embedding)
        for line in saved.set_aside(parts.registry):
            _say_part("plugin", line)

        secret = settings.of(WebhookSettings).webhook.secret
        assert secret is not None
        receiver = Receiver(secret.get_secret_value())
        callback = f"{await stack.enter_async_context(serving(receiver.app))}/callback"

        known = await _workers(parts)
        guard = Guard()
        stack.callback(guard.close)
        await self._start_children(stack, settings, guard)
        watchers = [self._keep(child, guard) for child in self._children]
        if server is not None:
            watchers.append(self._keep_redis(server))
        if not self._once:
            watchers.append(self._keep_up(parts, saved, guard))
        valuation = sample.Sample(url(settings.api.host, port), callback, settings, parts.ledger, receiver, _say)
        return await _first([self._work(parts, valuation, embedding, known), *watchers])

    # -- starting

    def _start_redis(self, stack: contextlib.AsyncExitStack) -> EmbeddedServer:
        server = EmbeddedServer(self._folder.redis)
        server.start()
        stack.callback(server.stop)
        program = Path(server.program or find_server()).name
        _say_part("redis", f"{program}, {server.url}, data and log in {self._folder.redis}")
        return server

    async def _prepare_stores(self, parts: Runtime, embedding: Embedding) -> None:
        applied = await asyncio.to_thread(migrate, parts.database, parts.registry.plugins)
        kind = f"SQLite, {self._folder.database}" if embedding.database else "the configured one"
        _, tasks = await asyncio.to_thread(parts.ledger.find, limit=1)
        _say_part("database", f"{kind}, " + (f"migrated ({', '.join(applied)})" if applied else f"{tasks} tasks in it"))
        if self._seed and embedding.database and not tasks:
            await asyncio.to_thread(Stories(Rows(parts.database), utcnow()).tell, self._seed)
            await asyncio.to_thread(figures.count, parts.database)
            _say_part("history", f"{self._seed} made-up tasks of the last days (`sytq seed --remove` deletes them)")
        if not embedding.redis:
            try:
                await asyncio.to_thread(check_rights, parts.redis, parts.keys, parts.settings.stream_keys)
            except RedisUnavailable as error:
                raise DevError(f"the configured Redis cannot be used: {error}") from None
            _say_part("redis", "the configured one")

    async def _start_children(self, stack: contextlib.AsyncExitStack, settings: Settings, guard: Guard) -> None:
        sytq = [sys.executable, "-m", "sytq.cli"]
        self._children = [
            Child("worker", [*sytq, "worker"], self._folder, settings.worker.shutdown_timeout + _EXTRA),
            Child("api", [*sytq, "api"], self._folder, settings.api.graceful_timeout + _EXTRA),
        ]
        stack.push_async_callback(self._stop_children)
        for child in self._children:
            with contextlib.suppress(FileNotFoundError):
                child.log.replace(child.log.with_suffix(".log.old"))
            await self._start(child, guard)

    async def _stop_children(self) -> None:
        self._ending = True  # from now on a signal must not interrupt the shutdown, only hurry it
        await asyncio.gather(*(child.stop() for child in self._children))

    # -- running

    async def _keep(self, child: Child, guard: Guard) -> None:
        """Restart the child whenever it ends; with `once`, its end is final. Raises DevError."""
        restarts = Restarts(_MAX_PAUSE)
        while True:
            since = time.monotonic()
            status = await child.ended()
            async with child.replacing:
                if child.pid is not None:  # replaced, as a plugin file has changed
                    continue
            said = f"the {child.name} ended unexpectedly ({describe(status)})"
            _say(f"{said}; the last lines of {child.log}:")
            for line in child.last_lines():
                _say(f"  > {line}")
            if self._once:
                raise DevError(said)
            pause = restarts.pause(time.monotonic() - since)
            _say(f"starting the {child.name} again" + (f" in {pause:g} s" if pause else ""))
            await asyncio.sleep(pause)
            async with child.replacing:
                await self._start(child, guard)

    async def _start(self, child: Child, guard: Guard) -> None:
        # Nothing starts while everything ends: a renewal may still wait for its child then, when another has failed.
        if child.pid is None and not self._ending:
            await child.start(self._environ)
            guard.watch(self._children)

    async def _renew(self, child: Child, guard: Guard) -> None:
        """Stop the child and start it again; a child that waits for its restart is started at once."""
        async with child.replacing:
            if child.pid is not None:
                await child.stop()
            await self._start(child, guard)

    async def _keep_up(self, parts: Runtime, saved: Saved, guard: Guard) -> None:
        """Restart worker and API whenever a plugin file is saved and can be loaded."""
        api = url(parts.settings.api.host, parts.settings.api.port)
        while True:
            files = await saved.next(self._environ, _say)
            self._environ |= saved.variables()
            known = await _workers(parts)
            # Each by itself: the API is back while the worker still drains.
            await asyncio.gather(*(self._renew(child, guard) for child in self._children))
            if await _are_up(parts, api, known):
                _say(f"Reloaded {files}.")
            else:
                _say(f"API and worker do not answer; see {self._children[0].log.parent}")

    async def _keep_redis(self, server: EmbeddedServer) -> None:
        address = server.url
        while True:
            await asyncio.sleep(0.5)
            if not server.running():
                _say(f"Redis ended unexpectedly (log in {server.folder}); starting it again")
                server.stop()
                server.start()
                if server.url != address:
                    raise DevError(f"Redis had to move from {address} to {server.url}: start `sytq dev` again")

    async def _work(self, parts: Runtime, valuation: sample.Sample, embedding: Embedding, known: set[str]) -> int:
        settings = parts.settings
        api = url(settings.api.host, settings.api.port)
        if not await _are_up(parts, api, known):
            logs = self._children[0].log.parent
            raise DevError(f"API and worker did not answer within {_START_DEADLINE:g} s; see {logs}")
        sizes = f"{settings.worker_processes} process(es), {settings.worker.threads} threads"
        _say_part("worker", f"{sizes}, log {self._children[0].log}")
        _say_part("api", f"{api}, log {self._children[1].log}")
        _say_part("dashboard", f"{api}/dashboard")
        if not self._once:
            _say_first_steps(settings, api, self._folder)

        seconds, name = _SAMPLE_DEADLINE, settings.of(LlmSettings).llm_provider or ""
        if embedding.provider:
            _say("\nA sample valuation, asked of the practice provider ...")
        else:
            _say(f"\nA sample valuation, a real call of the provider '{name}' ...")
            seconds = max(seconds, settings.of(LlmSettings).providers[name].total + 30)
        outcome = await valuation.run(seconds)
        for line in sample.lines(outcome):
            _say(line)
        if outcome.reason is None:
            _say("The sample valuation and its callback went through.")
        else:
            _say(f"The sample valuation did not go through: {outcome.reason}")
        if self._once:
            return 0 if outcome.reason is None else 1
        _say(f"\nRunning; Ctrl-C ends it. Dashboard: {api}/dashboard  Health: {api}/healthz/ready")
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def _first(works: list[Coroutine[Any, Any, int | None]]) -> int:
    """Run all until the first ends, cancel the others and return or raise the result of the first."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return next(iter(done)).result() or 0


async def _workers(parts: Runtime) -> set[str]:
    return {worker.name for worker in await asyncio.to_thread(parts.inspection.workers)}


async def _are_up(parts: Runtime, api: str, known: set[str]) -> bool:
    """Wait until the API answers and there is a worker besides the `known` ones; False when that takes too long."""
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(_START_DEADLINE),
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        ):
            while not await _ready(session, api) or not await _workers(parts) - known:
                await asyncio.sleep(0.05)
            return True
    return False


async def _ready(session: aiohttp.ClientSession, api: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(f"{api}/healthz/ready") as response:
            return response.status == 200
    return False


def _say_provider(settings: Settings, embedding: Embedding) -> None:
    name = settings.of(LlmSettings).llm_provider or ""
    address = settings.of(LlmSettings).providers[name].base_url
    if embedding.provider:
        _say_part("provider", f"PRACTICE provider, {address}: no model is asked, as no provider key is configured")
        _say_part("", "(SYTQ_DEEPSEEK__API_KEY=sk-... asks a real one; other providers: docs/llm.md)")
    else:
        _say_part("provider", f"{name}, {address}")


def _say_first_steps(settings: Settings, api: str, folder: Folder) -> None:
    user = next(iter(settings.auth.users), None) if settings.auth.enabled else None
    _say("\nA task of your own, to paste into another terminal; with curl:\n")
    _say(snippets.curl(api, user))
    _say("with PHP:\n")
    _say(snippets.php(api, user))
    own = Path(sys.executable).with_name("sytq")
    sytq = "sytq" if shutil.which("sytq") == str(own) else shlex.quote(str(own))
    _say(f"`{sytq} ls`, `{sytq} top` and all other commands find this service after\n")
    _say(f". {shlex.quote(str(folder.env))}\n")


def _say_part(name: str, text: str) -> None:
    _say(f"  {name:<9} {text}")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone; the shutdown continues
        print(line, flush=True)
