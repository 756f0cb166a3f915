"""Contract C, replayed byte for byte over a socket to Redis; the result is read by HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.installation import Installation
from tests.servers import poll

DATA = (
    b'{"task_id":7,"action":"execute","timestamp":"2026-01-09T23:13:17.123456789+09:00",'
    b'"retry":0,"source":"user_create"}'
)
STREAM = b"goodshunter:task:queue"


def test_a_message_of_an_external_program_becomes_a_task(start: Callable[..., Installation]) -> None:
    stream = {"stream": STREAM.decode(), "group": "scheduler_group", "payload": {"order": "{task_id}"}}
    service = start(SYTQ_STREAMS=json.dumps([stream]))
    service.start_worker()
    words = [b"XADD", STREAM, b"*", b"data", DATA]
    command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    address = urlsplit(service.environ["SYTQ_REDIS__URL"])
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(command)
        assert connection.recv(64).startswith(b"$")
    found = poll(lambda: service.get("/v2/tasks?q=state:succeeded")["tasks"], message="it has run")
    assert found[0]["type"] == "default"
    assert service.get(f"/v2/tasks/{found[0]['id']}")["payload"] == {"order": 7}
    redis = service.runtime.redis
    poll(lambda: redis.ask("XLEN", STREAM) == 0, message="the stream is empty")
    assert redis.ask("XPENDING", STREAM, "scheduler_group")["pending"] == 0
