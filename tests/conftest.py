"""Fixtures every test may use: private Redis and MySQL servers, fresh databases.

`redis_url`, `redis_client`, `mysql_url` and `database_url` are clean for each test on shared servers.
A test that stops, kills, pauses or reconfigures a server takes `own_redis` or `own_mysql`.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import peewee
import pytest
import redis

from sytq import clock
from sytq.ledger.database import open_database
from sytq.ledger.models import MODELS
from tests import forkserver, leftovers
from tests.installation import ENGINES, Installation
from tests.provider import ScriptedProvider
from tests.receiver import Receiver
from tests.servers import MySQLServer, RedisServer, Server, ServerMissing
from tests.tables import make_tables

S = TypeVar("S", bound=Server)

ROOT = Path(__file__).resolve().parent.parent


_FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[_FOLDER] = leftovers.begin()
        # Once, not in each of the many processes that tests start, which PYTHONDONTWRITEBYTECODE may forbid to keep it.
        for folder in ("sytq", "plugins"):
            compileall.compile_dir(ROOT / folder, quiet=2)
    # SIGTERM (a CI time limit) ends the run as Ctrl-C does, so that fixtures still stop their servers.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", returncode=143))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    try:
        yield  # fixtures of the session end here, and their processes
    finally:
        forkserver.stop()
    if folder := session.config.stash.get(_FOLDER, None):
        for left in leftovers.end(folder):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
            print(f"\nLEFT BEHIND by the tests: {left}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"mysql_server", "own_mysql", "mysql_url"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.mysql)


def _started(make: Callable[[], S]) -> Iterator[S]:
    try:
        server = make()
    except ServerMissing as problem:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{problem}; with CI=true every server must be there", pytrace=False)
        pytest.skip(str(problem))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session", autouse=True)
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Worker processes put their liveness files into pytest's own folder: a killed one deletes nothing."""
    os.environ["RUNTIME_DIRECTORY"] = str(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def own_clock() -> None:
    """What earlier tests heard of servers' clocks does not correct a clock that a test sets."""
    clock.forget()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The run's shared Redis. Leave it running; take `own_redis` to break one."""
    yield from _started(RedisServer)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone: stop(), kill(), pause(), start() keep port and data."""
    yield from _started(RedisServer)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Address of the shared Redis, emptied."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def redis_client(redis_server: RedisServer, redis_url: str) -> Iterator[redis.Redis]:
    """A client (answers in bytes) of the shared Redis, emptied."""
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MySQLServer]:
    """The run's shared MySQL. Leave it running; take `own_mysql` to break one."""
    yield from _started(MySQLServer)


@pytest.fixture
def own_mysql() -> Iterator[MySQLServer]:
    """A MySQL for this test alone (2 s to make): stop(), kill(), pause(), start() keep port and data."""
    yield from _started(MySQLServer)


@pytest.fixture
def mysql_url(mysql_server: MySQLServer) -> Iterator[str]:
    """Address of a new, empty MySQL database, dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:16]}"
    yield mysql_server.create_database(name)
    mysql_server.drop_database(name)


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a new, empty database, once per engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sytq.db'}"
    return str(request.getfixturevalue("mysql_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[peewee.Database]:
    """A new database with sytq's tables, to which the models are bound, once per engine."""
    made = open_database(database_url)
    make_tables(made)
    made.bind(MODELS)
    yield made
    made.close_all()  # type: ignore[attr-defined]


@pytest.fixture(scope="module", params=ENGINES)
def module_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a new, empty database of the module, once per engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('database') / 'sytq.db'}"
        return
    server: MySQLServer = request.getfixturevalue("mysql_server")
    name = f"m{uuid.uuid4().hex[:16]}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def installation(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    """sytq on SQLite and the shared Redis; the test starts workers and API."""
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url)
    yield made
    made.close()


@pytest.fixture
def make_installation(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Installation]]:
    """Makes installations of this test alone: make_installation(database_url=..., redis_url=..., SYTQ_...=...).

    Without addresses they share one SQLite file and the shared Redis, emptied.
    """
    made: list[Installation] = []
    shared_redis = redis_url

    def make(database_url: str = "", redis_url: str = "", **settings: str | None) -> Installation:
        folder = tmp_path / f"installation-{len(made)}"
        folder.mkdir()
        url = database_url or f"sqlite:///{tmp_path / 'sytq.db'}"
        made.append(Installation(folder, url, redis_url or shared_redis, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Installation]]:
    """Starts an installation with an API when its name is first asked for; it runs until the session ends.

    Each has a database of its own (SQLite without `mysql`); their Redis is their own too, and never emptied.
    """
    started: dict[str, Installation] = {}
    with contextlib.contextmanager(_started)(RedisServer) as redis_server, contextlib.ExitStack() as stack:

        def start(name: str, mysql: MySQLServer | None, **settings: str | None) -> Installation:
            if name not in started:
                folder = tmp_path_factory.mktemp(name)
                url = mysql.create_database(name) if mysql else f"sqlite:///{folder / 'sytq.db'}"
                made = Installation(folder, url, redis_server.url, SYTQ_REDIS__PREFIX=name, **settings)
                stack.callback(made.close)
                made.start_api()
                started[name] = made
            return started[name]

        yield start


@pytest.fixture
def running_on(
    request: pytest.FixtureRequest, start_shared: Callable[..., Installation], tmp_path: Path
) -> Iterator[Callable[[str], Installation]]:
    """Gives the shared installation of an engine, with an API and a worker; see tests/installation.py."""
    journal = tmp_path / "journal"

    def get(engine: str) -> Installation:
        mysql = request.getfixturevalue("mysql_server") if engine == "mysql" else None
        shared: Installation = start_shared(f"running-{engine}", mysql, SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]')
        if not shared.workers:
            shared.start_worker()
        shared.begin_test(journal)
        return shared

    yield get
    for hold in tmp_path.glob("journal.hold-*"):  # a held task would run on
        hold.unlink()


@pytest.fixture(params=ENGINES)
def running(request: pytest.FixtureRequest, running_on: Callable[[str], Installation]) -> Installation:
    """The shared installation of each engine in turn."""
    return running_on(request.param)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of callbacks that answers 200."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """An LLM provider that answers normally until a test changes the scene."""
    made = ScriptedProvider()
    yield made
    made.close()
