"""Receivers as they are: the status line decides, whatever follows it and however it arrives."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import aiohttp
import pytest

from sytq.http.client import Answer, Client
from sytq.http.guard import Guard
from sytq.http.sessions import NotHttp
from tests.http.conftest import serve as serve  # the fixture

LOOPBACK = Guard(["127.0.0.0/8"])
OK = b"HTTP/1.1 200 OK\r\n"
BODY = b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"

# What a receiver sends: the status is 200 and the body "ok".
WHOLE = {
    "header of 9,000 bytes": OK + b"X-Policy: " + b"y" * 9000 + b"\r\n" + BODY,
    "140 headers": OK + b"".join(b"X-%d: a\r\n" % n for n in range(140)) + BODY,
    "reason of 9,000 bytes": b"HTTP/1.1 200 " + b"O" * 9000 + b"\r\n" + BODY,
    "no reason": b"HTTP/1.1 200\r\n" + BODY,
    "empty reason": b"HTTP/1.1 200 \r\n" + BODY,
    "reason in Latin-1": b"HTTP/1.1 200 Trouv\xe9\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + BODY,
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + BODY,
    "LF line ends": (OK + BODY).replace(b"\r\n", b"\n"),
    "mixed line ends": b"HTTP/1.1 200 OK\n" + BODY,
    "empty lines first": b"\r\n\r\n" + OK + BODY,
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + BODY,
    "102 with LF first": b"HTTP/1.1 102 Processing\n\n" + OK + BODY,
    "three 103 first": EARLY * 3 + OK + BODY,
    "folded header": OK + b"X-A: a\r\n b\r\n\tc\r\n" + BODY,
    "bytes in a header": OK + b"X-A: \xe4\xbd\xa0\xff\x01\x7f\r\n" + BODY,
    "singletons twice": OK + b"Server: a\r\nServer: b\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n" + BODY,
    "senseless types": OK + b'Content-Type: ;;=\xff"; charset="\x01\xe9\r\n' + BODY,
    "senseless cookies": OK + b"Set-Cookie: \xff=;;==\r\nSet-Cookie: a=b; expires=x; Max-Age=9e99\r\n" + BODY,
    "offer of HTTP/2": OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\n" + BODY,
    "more than its length": OK + BODY + b"<br />Notice",
    "another answer": OK + BODY + b"HTTP/1.1 500 X\r\n" + BODY,
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "the same length twice": OK + b"Content-Length: 2\r\n" + BODY,
    "list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "space in a name": OK + b"X Powered By: a\r\n" + BODY,
    "bytes in a name": OK + b"X-\xe9: a\r\n" + BODY,
    "no name": OK + b": a\r\n" + BODY,
    "no colon": OK + b"nonsense\r\n" + BODY,
    "warning of PHP": OK + b"<br />\n<b>Warning</b>: x in <b>a.php</b>\r\n" + BODY,
    "status line twice": OK + OK + BODY,
    "NUL in a header": OK + b"X-A: a\x00b\r\n" + BODY,
    "CR in a header": OK + b"X-A: a\rb\r\n" + BODY,
    "old web socket": OK + b"Sec-WebSocket-Key1: a\r\n" + BODY,
    "bad 100 first": b"HTTP/1.1 100 Continue\r\nbad\r\n\r\n" + OK + BODY,
    "bad after 103": EARLY + OK + b"bad\r\n" + BODY,
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n" + BODY,
    "HTTP/2": b"HTTP/2 200\r\n" + BODY,
    "lower case": b"http/1.1 200 ok\r\n" + BODY,
    "spaces in the status line": b"HTTP/1.1  200  OK\r\n" + BODY,
    "tabs in the status line": b"HTTP/1.1\t200\tOK\r\n" + BODY,
    "space first": b" " + OK + BODY,
    "no transfer coding": OK + b"Transfer-Encoding: identity\r\n" + BODY,
    "length and chunks, folded": OK
    + b"Content-Length: 9\r\n 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
}
# The status is 200, and something of the answer cannot be read; no end of the connection is needed to know it.
BROKEN = {
    "header of 100,000 bytes": OK + b"X-Policy: " + b"y" * 100_000 + b"\r\n" + BODY,
    "2,000 headers": OK + b"".join(b"X-%d: a\r\n" % n for n in range(2000)) + BODY,
    "head of 700,000 bytes": OK + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 7000) for n in range(100)) + BODY,
    "reason of 100,000 bytes": b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n" + BODY,
    "not chunked": CHUNKED + b'{"ok": true}',
    "second chunk broken": CHUNKED + b"2\r\nok\r\nzz\r\n",
    "not gzip": OK + b"Content-Encoding: gzip\r\n" + BODY,
    "brotli unasked": OK + b"Content-Encoding: br\r\n" + BODY,
    "two lengths": OK + b"Content-Length: 3\r\n" + BODY,
    "negative length": OK + b"Content-Length: -1\r\n\r\nok",
    "length in words": OK + b"Content-Length: two\r\n\r\nok",
    "no length in its header": OK + b"Content-Length: \r\n\r\nok",
    "endless length": OK + b"Content-Length: 99999999999999999999999\r\n\r\nok",
}
# The status is 200; then the connection ends, or nothing comes any more.
ENDED = {
    "after the code": b"HTTP/1.1 200 ",
    "after the status line": OK,
    "in the head": OK + b"X-A: a",
    "before the last chunk": CHUNKED + b"2\r\nok\r\n",
    "in a chunk": CHUNKED + b"5\r\nok",
    "in the body": OK + b"Content-Length: 99\r\n\r\nok",
    "CR line ends": (OK + BODY).replace(b"\r\n", b"\r"),
}
# No final status can be read.
UNREADABLE = {
    "HTTP/1.1 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 20 OK": b"HTTP/1.1 20 OK\r\n" + BODY,
    "HTTP/1.1 2000 OK": b"HTTP/1.1 2000 OK\r\n" + BODY,
    "HTTP/1.1 20": b"HTTP/1.1 20",
    "SSH-2.0-OpenSSH_9.2": b"SSH-2.0-OpenSSH_9.2\r\n",
    "Status: 200 OK": b"Status: 200 OK\r\n" + BODY,
    "<html>": b"<html>\nHTTP/1.1 200 OK\n</html>",
    "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdF": b"\x15\x03\x03\x00\x02\x02\x46",  # an alert of TLS
}


def sending(data: bytes, ending: str = "") -> Any:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(data)
        if ending == "close":
            writer.close()
        elif ending == "reset":
            await writer.drain()
            await asyncio.sleep(0.05)  # a reset may overtake what was sent before it
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    return handler


async def post(client: Client, port: int, **options: Any) -> Answer:
    return await client.request(
        "POST", f"http://127.0.0.1:{port}/", **({"partial_body": True, "timeout": 20} | options)
    )


def answer_to(serve: Any, handler: Any, **options: Any) -> Answer:
    return answers_to(serve, {"only": handler}, **options)["only"]


def answers_to(serve: Any, handlers: dict[str, Any], **options: Any) -> dict[str, Answer]:
    """Answers by the name of the handler, from a server each."""

    async def main() -> dict[str, Answer]:
        client = Client(LOOPBACK)

        async def one(handler: Any) -> Answer:
            async with serve(handler) as port:
                return await post(client, port, **options)

        try:
            return dict(zip(handlers, await asyncio.gather(*map(one, handlers.values())), strict=True))
        finally:
            await client.close()

    return asyncio.run(main())


def test_an_unusual_answer_is_read_as_a_whole(serve: Any) -> None:
    answers = answers_to(serve, {name: sending(data) for name, data in WHOLE.items()})
    read = {name: (answer.status_code, answer.content[:2], answer.cut) for name, answer in answers.items()}
    assert read == dict.fromkeys(WHOLE, (200, b"ok", ""))


def test_a_fault_behind_the_status_line_cuts_the_answer_only(serve: Any) -> None:
    answers = answers_to(serve, {name: sending(data) for name, data in BROKEN.items()})
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(BROKEN, 200)
    words = {"the head cannot be read as HTTP; no body was read", "the body breaks off or cannot be decoded"}
    assert {answer.cut for answer in answers.values()} == words


@pytest.mark.parametrize("ending", ["close", "reset", "hang"])
def test_an_end_behind_the_status_line_cuts_the_answer_only(serve: Any, ending: str) -> None:
    handlers = {name: sending(data, ending) for name, data in ENDED.items()}
    answers = answers_to(serve, handlers, timeout=0.5 if ending == "hang" else 20)
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(ENDED, 200)
    for name, answer in answers.items():
        part = "body" if b"\r\n\r\n" in ENDED[name] else "head"
        assert part in answer.cut and ("did not end within 0.5s" in answer.cut) is (ending == "hang"), name


@pytest.mark.parametrize("status", [b"204 No Content", b"205 Reset Content", b"304 Not Modified"])
@pytest.mark.parametrize("rest", [BODY, b"\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"])
def test_a_body_where_none_may_be_changes_nothing(serve: Any, status: bytes, rest: bytes) -> None:
    answer = answer_to(serve, sending(b"HTTP/1.1 " + status + b"\r\n" + rest, "close"))
    assert answer.status_code == int(status[:3])


def test_answers_in_single_bytes_have_the_same_status(serve: Any) -> None:
    def in_bytes(data: bytes) -> Any:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
            for n in range(len(data)):
                writer.write(data[n : n + 1])
                await asyncio.sleep(0)
            writer.close()

        return handler

    cases = {name: data for name, data in (WHOLE | BROKEN | ENDED).items() if len(data) < 1000}
    answers = answers_to(serve, {name: in_bytes(data) for name, data in cases.items()})
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(cases, 200)


@pytest.mark.parametrize("said", UNREADABLE)
def test_without_a_status_line_the_error_says_what_came(serve: Any, said: str) -> None:
    with pytest.raises(NotHttp) as error:
        answer_to(serve, sending(UNREADABLE[said], "close"))
    assert str(error.value) == f"answered '{said}' and no final HTTP status"


def test_a_refused_head_still_gives_its_readable_headers(serve: Any) -> None:
    lines = b"Retry-After: 77\r\nbad\r\nX-A : b\r\nX-C: \xff\x00\r\nX-Cut: 1"
    answer = answer_to(serve, sending(b"HTTP/1.1 503 Full\r\n" + lines, "close"))
    assert answer.status_code == 503
    assert dict(answer.headers) == {"Retry-After": "77", "X-C": "\ufffd\x00"}


def test_a_broken_answer_without_partial_body_is_an_error(serve: Any) -> None:
    for name in ("not chunked", "two lengths", "2,000 headers"):
        with pytest.raises(aiohttp.ClientError):
            answer_to(serve, sending(BROKEN[name]), partial_body=False)


# The connection afterwards


def test_a_fault_closes_the_connection_at_most(serve: Any) -> None:
    """The next request gets its own response, on the same connection or another."""
    cases = WHOLE | BROKEN
    seen: list[str] = []

    def twice(name: str) -> Any:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
            seen.append(name)
            writer.write(b"HTTP/1.1 202 X\r\nContent-Length: 0\r\n\r\n" if seen.count(name) > 1 else cases[name])

        return handler

    async def main() -> list[list[int]]:
        client = Client(LOOPBACK)

        async def both(name: str) -> list[int]:
            async with serve(twice(name)) as port:
                return [(await post(client, port)).status_code for _ in range(2)]

        statuses = await asyncio.gather(*map(both, cases))
        await client.close()
        return statuses

    assert asyncio.run(main()) == [[200, 202]] * len(cases)
    assert {name: seen.count(name) for name in cases} == dict.fromkeys(cases, 2)


@pytest.mark.parametrize("seen", [False, True], ids=["on its way", "seen by the client"])
@pytest.mark.parametrize("unasked", [OK + BODY, b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\0", None])
def test_what_an_idle_connection_says_answers_no_request(serve: Any, unasked: bytes | None, seen: bool) -> None:
    """Some servers announce so that they end an idle connection, some end it without a word (None)."""
    connections = 0
    speak, left = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            writer.write(b"HTTP/1.1 500 X\r\n" + BODY)
            return
        writer.write(OK + BODY)
        await speak.wait()
        if unasked is None:
            writer.write_eof()
        else:
            writer.write(unasked)
        assert await reader.read() == b""
        left.set()

    async def main() -> list[int]:
        client = Client(LOOPBACK)
        async with serve(handler) as port:
            first = (await post(client, port)).status_code
            speak.set()
            if seen:
                await asyncio.wait_for(left.wait(), 10)  # idle connections end after 15 s
            else:
                await asyncio.sleep(0)  # for the server to write, which comes before the client reads
            second = (await post(client, port)).status_code
        await client.close()
        return [first, second]

    assert asyncio.run(main()) == [200, 500] and connections == 2


def puts(serve: Any, *answers: bytes) -> tuple[list[int], int]:
    """Two idempotent requests and how many came: aiohttp repeats one when a reused connection breaks."""
    came = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal came
        came += 1
        writer.write(answers[came - 1])
        if came > 1:
            writer.close()

    async def main() -> list[int]:
        client = Client(LOOPBACK)
        async with serve(handler) as port:
            url = f"http://127.0.0.1:{port}/"
            answers = [await client.request("PUT", url, partial_body=True) for _ in range(2)]
        await client.close()
        return [answer.status_code for answer in answers]

    return asyncio.run(main()), came


def test_a_request_whose_status_was_read_is_not_sent_again(serve: Any) -> None:
    assert puts(serve, OK + BODY, b"HTTP/1.1 202 Accepted\r\n") == ([200, 202], 2)


def test_a_request_that_is_sent_again_has_the_status_of_the_second(serve: Any) -> None:
    answers = OK + BODY, b"HTTP/1.1 2", b"HTTP/1.1 202 Accepted\r\nbad\r\n\r\n"
    assert puts(serve, *answers) == ([200, 202], 3)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("data", [OK + BODY, OK], ids=["whole", "status line"])
def test_a_receiver_may_answer_and_reset_before_it_reads_the_body(serve: Any, data: bytes) -> None:
    answer = answer_to(serve, sending(data, "close"), body=b"x" * 3_000_000)  # closing with unread data is a reset
    assert answer.status_code == 200


# What is sent


@pytest.mark.parametrize("trusted", [False, True])
def test_path_and_query_are_sent_byte_for_byte(serve: Any, trusted: bool) -> None:
    same = [
        "/a%2Fb%20c+d;e?x=%20+%2B&&y",
        "/p?",
        "/p??",
        "/?a=b?c=d/e",
        "//a//b/",
        "/a/../b/./c/%2e%2E/d/..",
        "/100%/%zz?%",
        "/{a}|\"^`'<>[]",
        "/%7Etilde/~tilde/%e4/%E4%bd%A0",
        "/a;b=c;d?x;y",
        "/a@b:c?to=http://u:p@h/",
        "/%00%0d%0a%20",
        "/~!$&*()_=:,-.",
        "/%28%29%27%3A%40?X-Signature=a%2Bb%3D&p=%27%3a",  # of public reports on signed URLs that were rewritten
        "/a?b=c%23d",
    ]
    encoded = {
        "": "/",
        "?": "/?",
        "?q=1": "/?q=1",
        "/a#f?g": "/a",
        "/a?#f": "/a?",
        "/路?查=值": "/%E8%B7%AF?%E6%9F%A5=%E5%80%BC",
    }
    expected = {given: given for given in same} | encoded
    lines: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        lines.append(head.split(b"\r\n")[0])
        writer.write(OK + BODY)

    async def main() -> None:
        client = Client(LOOPBACK)
        async with serve(handler) as port:
            for given in expected:
                await client.get(f"http://127.0.0.1:{port}{given}", trusted=trusted)
        await client.close()

    asyncio.run(main())
    assert lines == [f"GET {target} HTTP/1.1".encode() for target in expected.values()]
