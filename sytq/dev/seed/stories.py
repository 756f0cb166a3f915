"""The made-up tasks themselves: what a shop submits, with the tasks that follow from it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

from sytq_plugins.webhook.hosts import FailingHost

from sytq.dev.seed import words
from sytq.dev.seed.history import DAYS, Course, History, Made
from sytq.dev.seed.incidents import FAILING, FAILING_SINCE, Cause
from sytq.dev.seed.rows import Rows
from sytq.dev.seed.valuations import TABLE, Valuations
from sytq.errors import Fail
from sytq.ledger.models import Wait
from sytq.schedule import tick_id
from sytq.states import SUCCEEDED
from sytq.tasktypes.payload import encode
from sytq.worker.loops.scheduler import origin

_MAIL = {"to": ["customer@post.example"], "subject": "Your order is on its way", "text": "It is."}
_TICK = dt.timedelta(minutes=10)  # of the schedule `cleanup`
_SWEPT = ("audit", "spend", "hosts", "files")  # what `cleanup` deletes besides tasks


class Stories:
    """Tells one story after the other into `rows`, until there are so many tasks."""

    def __init__(self, rows: Rows, until: dt.datetime, seed: int = 1) -> None:
        self._history = History(rows, until, seed)
        self._random = self._history.random
        self._rows = rows
        self._valuations = Valuations(self._history, rows)
        #: Share in a hundred, tasks in it, the story.
        self._kinds: tuple[tuple[float, int, Callable[[dt.datetime], object]], ...] = (
            (38, 1, self._webhook),
            (12, 1, self._valuations.make),
            (11, 2, self._announced_valuation),
            (15, 1, self._email),
            (17.4, 1, self._plain),
            (1.5, 1, self._cancelled),
            (0.6, 1, self._scheduled),
            (0.3, 1, self._report),
            (1.2, 6, self._order),
            (0.1, 25, self._catalogue),
        )

    def tell(self, count: int) -> None:
        """Make up `count` tasks of the days before `until`."""
        self._rows.add(FailingHost, host=f"host:{FAILING}:443", since=self._history.until - FAILING_SINCE)
        special = self._special(count)
        left, stories = count - len(special), []
        shares = [share for share, _, _ in self._kinds]
        while left:
            _, size, story = self._random.choices(self._kinds, shares)[0]
            if size <= left:
                stories.append(story)
                left -= size
        for story, at in zip(stories, self._history.moments(len(stories)), strict=True):
            while special and special[0][0] <= at:
                special.pop(0)[1]()
            story(at)
        for _, last in special:
            last()
        self._rows.flush(1)

    def _special(self, count: int) -> list[tuple[dt.datetime, Callable[[], object]]]:
        """What happens at times of its own: a schedule's ticks, and some hostile tasks four hours before now."""
        until = self._history.until
        tick = until.replace(minute=until.minute - until.minute % 10, second=0, microsecond=0)
        found = []
        for number in range(min(DAYS * 144, count // 50)):
            at = tick - _TICK * number
            found.append((at, partial(self._cleanup, at)))
        for number in range(min(13, count // 20)):
            at = until - dt.timedelta(hours=4, minutes=number)
            found.append((at, partial(self._hostile, at, number)))
        return sorted(found, key=lambda one: one[0])

    def _webhook(self, at: dt.datetime, owner: str | None = None, **more: Any) -> Made:
        host = self._random.choices(list(words.HOSTS), list(words.HOSTS.values()))[0]
        about = self._history.about()
        event = self._random.choice(words.EVENTS)
        payload = {
            "url": f"https://{host}/events",
            "method": "POST",
            "headers": {"X-Event": event},
            "body": encode(
                {"event": event, "order_id": about["order_id"], "total": self._random.randrange(500, 90_000) / 100}
            ),
            "retry": {"first": "20s", "factor": 2, "max_attempts": 8},
        }
        course = self._delivery(at, "webhook", host)
        priority = self._random.choices(("urgent", "high", "normal", "low"), (1, 6, 88, 5))[0]
        owner = owner or self._random.choice(words.OWNERS)
        columns = {"queue": "webhook", "host": host, "priority": priority, "owner": owner, "metadata": about} | more
        return self._history.ended("webhook", payload, at, course, **columns)

    def _delivery(self, at: dt.datetime, type_name: str, host: str) -> Course:
        chance = self._random
        course = Course(chance.lognormvariate(-1.6, 0.6), chance.expovariate(20), details={"host": host})
        course.status = chance.choice((200, 200, 200, 202, 204))
        course.cause = self._history.cause(type_name, at, host)
        if chance.random() < 0.04:
            course.failures = [f"HTTP {chance.choice((500, 502, 503))} from {host}"] * chance.randint(1, 3)
        course.result = {"status": course.status, "elapsed_ms": round(course.seconds * 1000)}
        return course

    def _announced_valuation(self, at: dt.datetime) -> None:
        valuation = self._valuations.make(at)
        host = "orders.kastanie.example"
        status = "success" if valuation.error is None else "failed"
        body = encode({"task_id": valuation.id, "table_name": TABLE, "status": status})
        headers = {"Content-Type": "application/json"}
        payload = {"url": f"https://{host}/valuations", "method": "POST", "headers": headers, "body": body}
        columns = {"queue": "webhook", "host": host, "owner": valuation.owner, "parent": valuation.id}
        self._history.ended("callback", payload, valuation.finished_at, self._delivery(at, "callback", host), **columns)

    def _email(self, at: dt.datetime, owner: str | None = None, **more: Any) -> Made:
        chance = self._random
        to = f"customer.{chance.randrange(100, 9999)}@post.example"
        course = Course(chance.lognormvariate(-0.7, 0.5), chance.expovariate(5), cause=self._history.cause("email", at))
        course.result = {"message_id": f"<{chance.getrandbits(60):015x}@shop.example>", "sent": [to], "refused": {}}
        payload = _MAIL | {"to": [to]}
        columns = {"queue": "email", "owner": owner or "crm", "metadata": self._history.about()} | more
        return self._history.ended("email", payload, at, course, **columns)

    def _plain(self, at: dt.datetime, owner: str | None = None, **more: Any) -> Made:
        chance, about = self._random, self._history.about()
        payload = about | {"items": [f"SKU-{chance.randrange(100_000)}" for _ in range(chance.randint(1, 4))]}
        course = Course(chance.lognormvariate(-3.5, 0.8), chance.expovariate(50), pause=5, result=payload)
        course.cause = self._history.cause("default", at)
        columns = {"owner": owner or chance.choice(words.OWNERS), "metadata": about} | more
        return self._history.ended("default", payload, at, course, **columns)

    def _cancelled(self, at: dt.datetime) -> None:
        course = Course(self._random.uniform(5, 900), cancelled="cancelled by crm: the customer withdrew the order")
        self._history.ended("email", _MAIL, at, course, queue="email", owner="crm", metadata=self._history.about())

    def _scheduled(self, at: dt.datetime) -> None:
        about = self._history.about()
        payload = {"url": "https://events.moewe.example/reminders", "body": encode({"order_id": about["order_id"]})}
        columns = {"queue": "webhook", "host": "events.moewe.example", "owner": "shop-api", "metadata": about}
        self._history.scheduled("webhook", payload, at, self._random.uniform(30, 90), **columns)

    def _report(self, at: dt.datetime) -> None:
        stem = f"reports/report-{at:%Y%m%d}"
        result = {"tasks": self._random.randrange(9000, 15000), "files": [f"{stem}.html", f"{stem}.json"]}
        self._history.ended(
            "report", {"last": "24h"}, at, Course(self._random.uniform(0.4, 3), result=result), owner="billing"
        )

    def _order(self, at: dt.datetime) -> None:
        """An order with what follows from it, and a mail that depends on all of that."""
        owner = self._random.choice(("shop-api", "mobile"))
        order = self._plain(at, owner)
        below = {"owner": owner, "parent": order.id}
        begins = order.finished_at
        parts = [self._webhook(begins, **below) for _ in range(3)] + [self._valuations.make(begins, **below)]
        at_last = max(part.finished_at for part in parts)
        if failed := next((part for part in parts if part.state != SUCCEEDED), None):
            course = Course(1, cancelled=f"not run: {failed.type} {failed.id} is {failed.state}")
            columns = {"queue": "email", "held": "skipped"} | below
            last = self._history.ended("email", _MAIL, at_last, course, **columns).id
        else:
            last = self._email(at_last, **below).id
        for place, part in enumerate(parts):
            self._rows.add(Wait, task_id=last, on_id=part.id, place=place, ended=1)

    def _catalogue(self, at: dt.datetime) -> None:
        """One task with two dozen below it."""
        whole = self._plain(at, "billing")
        for _ in range(24):
            self._plain(whole.finished_at, "billing", parent=whole.id, priority="low")

    def _cleanup(self, at: dt.datetime) -> None:
        result = {"dry_run": False, "tasks": self._random.randrange(300), **dict.fromkeys(_SWEPT, 0)}
        name, tick = "cleanup", at.replace(tzinfo=dt.UTC)
        columns = {"id": tick_id(name, tick), "request_id": origin(name, tick), "priority": "low"}
        self._history.ended(name, {}, at, Course(self._random.uniform(0.02, 0.6), result=result), **columns)

    def _hostile(self, at: dt.datetime, number: int) -> None:
        """A task whose texts a page must show without being hurt."""
        payload: Any = words.HOSTILE[number] if number < len(words.HOSTILE) else "[not JSON"
        error = words.HOSTILE_ERRORS[number % len(words.HOSTILE_ERRORS)]
        cause = Cause("default", Fail(error), 1.0) if number % 2 else None
        course = Course(0.1, result=payload, cause=cause)
        deep = ["\u0000", {"deep": {"deeper": "'\"--"}}]
        metadata = {"hostile": number, "text": "<b>\u202eabc</b>", "<i>key</i>": deep}
        self._history.ended("default", payload, at, course, owner="o'brien & <sons>", metadata=metadata)
