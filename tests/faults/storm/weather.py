"""The faults of a storm, in an order and for times that follow from a seed."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pymysql
import redis

from tests.faults.storm.service import GROUPS, Member, Service, send
from tests.servers import Server

Fault = Callable[["Weather", random.Random], None]
#: What a fault breaks -> the faults. Two at once break different things.
FAULTS: dict[str, list[Fault]] = {}


def fault(breaks: str) -> Callable[[Fault], Fault]:
    def declare(made: Fault) -> Fault:
        FAULTS.setdefault(breaks, []).append(made)
        return made

    return declare


class Weather:
    def __init__(self, service: Service, seed: int) -> None:
        self.service = service
        self._random = random.Random(seed)

    def rage(self, seconds: float) -> None:
        """One fault after the other, at times two at once, each with a random number of seconds to itself."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number = 2 if self._random.random() < 0.25 else 1
            at_once = []
            for breaks in self._random.sample(sorted(FAULTS), number):
                # Seeded here, as threads take turns by chance.
                arguments = (self, random.Random(self._random.random()))
                at_once.append(threading.Thread(target=self._random.choice(FAULTS[breaks]), args=arguments))
            for thread in at_once:
                thread.start()
            for thread in at_once:
                thread.join()
            time.sleep(self._random.uniform(0.5, 6))

    @contextlib.contextmanager
    def event(self, name: str, *members: Member, kills: bool = False) -> Iterator[None]:
        event = self.service.events.begin(name, *(member.name for member in members), kills=kills)
        # A server may be broken by two faults at once, and not answer to the second.
        with contextlib.suppress(redis.RedisError, pymysql.err.MySQLError):
            yield
        self.service.events.end(event)


# -- processes


@fault("workers")
def kill_process(weather: Weather, random: random.Random) -> None:
    group = random.choice(weather.service.groups)
    with weather.event("kill -9 of a process of", group, kills=True):
        if pids := group.pids():
            send(random.choice(pids), signal.SIGKILL)


@fault("workers")
def kill_group(weather: Weather, random: random.Random) -> None:
    group = random.choice(weather.service.groups)
    with weather.event("kill -9 of", group, kills=True):
        group.kill()


@fault("workers")
def stop_process(weather: Weather, random: random.Random) -> None:
    group = random.choice(weather.service.groups)
    if pids := group.pids():
        pid = random.choice(pids)
        with weather.event("SIGSTOP of a process of", group):
            send(pid, signal.SIGSTOP)
            time.sleep(random.uniform(1, 8))
            send(pid, signal.SIGCONT)


@fault("workers")
def reload_group(weather: Weather, random: random.Random) -> None:
    group = random.choice(weather.service.groups)
    with weather.event("SIGHUP to", group):
        send(group.process.pid, signal.SIGHUP)


@fault("api")
def kill_api(weather: Weather, random: random.Random) -> None:
    api = weather.service.api
    with weather.event("kill -9 of", api):
        if random.random() < 0.5:
            api.kill()
        else:
            for pid in api.pids()[:1]:
                send(pid, signal.SIGKILL)


@fault("api")
def reload_api(weather: Weather, random: random.Random) -> None:
    api = weather.service.api
    with weather.event("SIGHUP to", api):
        send(api.process.pid, signal.SIGHUP)


# -- stores


def _restart(weather: Weather, random: random.Random, name: str, server: Server) -> None:
    with weather.event(f"kill -9 of {name}"):
        server.kill()
        time.sleep(random.uniform(0, 4))
        server.start()


def _freeze(weather: Weather, random: random.Random, name: str, server: Server) -> None:
    with weather.event(f"SIGSTOP of {name}"):
        server.pause()
        time.sleep(random.uniform(1, 8))
        server.resume()


@fault("redis")
def restart_redis(weather: Weather, random: random.Random) -> None:
    _restart(weather, random, "Redis", weather.service.redis)


@fault("redis")
def freeze_redis(weather: Weather, random: random.Random) -> None:
    _freeze(weather, random, "Redis", weather.service.redis)


@fault("redis")
def empty_redis(weather: Weather, random: random.Random) -> None:
    with weather.event("FLUSHALL"):
        weather.service.redis.client().flushall()


@fault("redis")
def fill_redis(weather: Weather, random: random.Random) -> None:
    with weather.event("full Redis"), weather.service.redis.client() as client:
        client.config_set("maxmemory", 1)
        time.sleep(random.uniform(1, 6))
        client.config_set("maxmemory", 0)


@fault("mysql")
def restart_mysql(weather: Weather, random: random.Random) -> None:
    _restart(weather, random, "MariaDB", weather.service.mysql)


@fault("mysql")
def freeze_mysql(weather: Weather, random: random.Random) -> None:
    _freeze(weather, random, "MariaDB", weather.service.mysql)


@fault("mysql")
def lock_table(weather: Weather, random: random.Random) -> None:
    table = random.choice(["sytq_tasks", "sytq_steps", "valuation_records"])
    with weather.event(f"lock on {table}"), weather.service.mysql.connect("sytq") as connection:
        connection.cursor().execute(f"LOCK TABLES {table} WRITE")
        time.sleep(random.uniform(1, 8))


@fault("mysql")
def read_only(weather: Weather, random: random.Random) -> None:
    with weather.event("read-only MariaDB"):
        weather.service.mysql.execute("SET GLOBAL read_only = ON")
        time.sleep(random.uniform(1, 6))
        weather.service.mysql.execute("SET GLOBAL read_only = OFF")


# -- networks


@fault("network")
def break_network(weather: Weather, random: random.Random) -> None:
    """Between one of API and groups, or all of them, and one store."""
    members = weather.service.members if random.random() < 0.3 else [random.choice(weather.service.members)]
    store = random.choice(["redis", "mysql"])
    proxies = [getattr(member, store) for member in members]
    how = random.choice(["cut", "freeze", "forget", "slow"])
    # Where all are cut off from a store it is the store that is away, which costs no call.
    seen = members if len(members) < 1 + GROUPS else ()
    with weather.event(f"network to {store} {how}", *seen):
        for proxy in proxies:
            getattr(proxy, how)(*((random.uniform(0.02, 0.5),) if how == "slow" else ()))
        time.sleep(random.uniform(1, 8))
        for proxy in proxies:
            proxy.heal()
