"""Waiting for results: Prefer: wait, ETags and events; waiting clients do not slow others."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sytq.api.v2.waiting import MAX_WAIT
from tests.installation import Installation
from tests.servers import poll


def waiting(service: Installation, path: str, seconds: object, body: Any = None) -> Any:
    headers = {"Prefer": f"respond-async, wait={seconds}"}
    return service.request("POST" if body else "GET", path, body, headers)


def plain(service: Installation) -> dict[str, Any]:
    return {"type": "plain", "payload": {"journal": str(service.journal), "name": "x", "seconds": 0}}


class Stream:
    """One connection to the events of a task."""

    def __init__(self, api: Installation, path: str, **headers: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=90)
        self.connection.request("GET", path, headers=headers)
        self.answer = self.connection.getresponse()

    def events(self) -> Iterator[dict[str, str]]:
        event: dict[str, str] = {}
        while line := self.answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name in ("id", "event", "data"):
                event[name] = value
            elif not line.strip() and event:
                yield event
                event = {}

    def close(self) -> None:
        self.connection.close()


def test_a_waiting_get_returns_the_result(running: Installation) -> None:
    running.hold("a")
    task_id = running.post_task("plain", "a")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(waiting, running, f"/v2/tasks/{task_id}", 60)
        poll(lambda: running.get(f"/v2/tasks/{task_id}")["state"] == "running")
        assert not asked.done()
        running.release("a")
        reply = asked.result()
    assert (reply.status, reply.json["state"], reply.headers["preference-applied"]) == (200, "succeeded", "wait=60")


def test_a_waiting_post_returns_the_ended_task(running: Installation) -> None:
    reply = waiting(running, "/v2/tasks", 60, plain(running))
    assert (reply.status, reply.json["state"]) == (200, "succeeded")
    assert reply.headers["location"] == f"/v2/tasks/{reply.json['id']}"


def test_a_wait_is_capped_at_a_minute_and_the_response_says_so(running: Installation) -> None:
    assert MAX_WAIT == 60  # as docs/api.md says
    assert waiting(running, "/v2/tasks", 3600, plain(running)).headers["preference-applied"] == "wait=60"
    assert waiting(running, "/v2/tasks", 60, plain(running)).headers["preference-applied"] == "wait=60"


def test_an_unfinished_task_is_returned_when_the_wait_expires(running: Installation) -> None:
    running.hold("x")
    began = time.monotonic()
    reply = waiting(running, "/v2/tasks", 1, plain(running))
    assert time.monotonic() - began >= 1
    assert (reply.status, reply.headers["preference-applied"]) == (202, "wait=1")
    assert reply.json["state"] in ("queued", "running")
    running.release("x")


def test_an_unchanged_task_is_304_by_its_etag(running: Installation) -> None:
    running.hold("a")
    task_id = running.post_task("plain", "a")
    path = f"/v2/tasks/{task_id}"
    running.wait_shown(task_id, "running")  # in both stores: the tag covers what each of them knows
    tag = running.request("GET", path).headers["etag"]
    same = running.request("GET", path, headers={"If-None-Match": f'"other", {tag}'})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
    running.release("a")
    poll(lambda: running.request("GET", path, headers={"If-None-Match": tag}).status == 200)


def test_events_follow_a_task_to_its_end_and_resume_after_a_break(running: Installation) -> None:
    running.hold("a")
    task_id = running.post_task("plain", "a")
    running.wait_shown(task_id, "running")
    path = f"/v2/tasks/{task_id}/events"
    broken = Stream(running, path)
    assert broken.answer.getheader("content-type").startswith("text/event-stream")
    first = next(broken.events())
    assert json.loads(first["data"])["state"] == "running"
    broken.close()
    again = Stream(running, path, **{"Last-Event-ID": first["id"]})
    running.release("a")
    seen = list(again.events())
    assert first["id"] not in [event["id"] for event in seen]
    last = seen[-1]
    assert (last["event"], json.loads(last["data"])["state"]) == ("ended", "succeeded")
    assert Stream(running, path, **{"Last-Event-ID": last["id"]}).answer.status == 204
    late = list(Stream(running, path).events())
    assert [event["id"] for event in late] == [last["id"]]


def test_events_report_the_progress_of_a_running_task(running: Installation) -> None:
    running.hold("a")
    task_id = running.post_task("gentle", "a")
    stream = Stream(running, f"/v2/tasks/{task_id}/events")
    seen = []
    for event in stream.events():
        seen.append(json.loads(event["data"]))
        if seen[-1]["progress"] is not None:
            break
    assert seen[-1] == {
        "state": "running", "attempts": 1, "progress": {"done": 1, "of": 2, "text": "half way"}, "ended": False,
    }  # fmt: skip
    assert {event["state"] for event in seen} <= {"queued", "running"}
    assert running.post(f"/v2/tasks/{task_id}/cancel").json["outcome"] == "asked"
    assert json.loads(list(stream.events())[-1]["data"])["state"] == "cancelled"


def test_events_of_an_unknown_task_are_404(running: Installation) -> None:
    assert running.request("GET", "/v2/tasks/01a203a6-e3d8-7ecc-a4e5-97dbaeaaab8a/events").status == 404


def test_a_reload_ends_waits_and_event_streams(service: Installation) -> None:
    task_id = service.post_task("plain", "a")
    stream = Stream(service, f"/v2/tasks/{task_id}/events")
    next(stream.events())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(waiting, service, f"/v2/tasks/{task_id}", 60)
        time.sleep(2)  # until it waits, which nothing reports
        service.gunicorn.signal_master(signal.SIGHUP)
        reply = asked.result(timeout=50)  # well before its 60 s are over
    assert (reply.status, reply.json["state"]) == (200, "queued")
    assert list(stream.events()) == []


@pytest.mark.faults
def test_a_thousand_waiting_clients_do_not_slow_submissions(service: Installation) -> None:
    def median(count: int = 60) -> float:
        taken = []
        for n in range(count):
            began = time.perf_counter()
            service.post_task("plain", f"s{n}")
            taken.append(time.perf_counter() - began)
        return sorted(taken)[count // 2]

    ids = [service.post_task("plain", f"w{n}") for n in range(20)]
    alone = median()
    connections = []
    for n in range(1000):
        connection = socket.create_connection(("127.0.0.1", service.port))
        connection.sendall(
            f"GET /v2/tasks/{ids[n % 20]} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n".encode()
        )
        connections.append(connection)
    assert median() < 3 * alone + 0.02
    service.start_worker()
    for connection in connections:
        connection.settimeout(60)
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
