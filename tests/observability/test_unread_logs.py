"""Standard error that nobody reads: a full pipe stops neither API nor worker, and lost lines are told."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sytq.observability.log_stream import LogStream
from tests.installation import Installation
from tests.processes import GUNICORN_CONF, gunicorn_command
from tests.servers import poll


@contextlib.contextmanager
def narrow_pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe of one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def unread(command: Sequence[str], on: Installation) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose standard output and error nobody reads; SIGTERM must end it all the same."""
    with narrow_pipe() as (_, writer):
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=on.environ, cwd=on.folder, stdout=writer, stderr=writer
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def on(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, SYTQ_LOGGER__LEVEL="debug")
    yield made
    made.close()


def test_lines_written_together_are_whole_and_in_order_whoever_writes_in_between() -> None:
    written: list[str] = []

    class Stream:
        def write(self, text: str) -> None:
            written.append(text)

        def flush(self) -> None:
            pass

    stream = LogStream(Stream())
    lines = [f"{number} {chr(252) if number % 7 == 0 else 'x' * 100}\n" for number in range(100)]
    with stream.together():
        for line in lines[:50]:
            stream.write(line)
        with stream.together():
            other = threading.Thread(target=stream.write, args=(lines[50],))
            other.start()
            other.join()
        assert not written
        for line in lines[51:]:
            stream.write(line)
    stream.write("last\n")
    assert "".join(written) == "".join([*lines, "last\n"])
    assert len(written) < 40 and all(len(text.encode()) <= 4000 for text in written)


def test_api_answers_and_ends_while_nobody_reads_its_log(on: Installation) -> None:
    with unread(gunicorn_command(GUNICORN_CONF), on):
        poll(on._answers)
        for _ in range(150):
            on.post_task("plain")


def test_worker_runs_tasks_and_ends_while_nobody_reads_its_log(on: Installation) -> None:
    with unread(("sytq.cli", "worker"), on):
        for task_id in [on.submit("plain") for _ in range(150)]:
            on.wait_state(task_id, "succeeded")


def text(reader: int) -> str:
    os.set_blocking(reader, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, 65536):
            found += chunk
    return found.decode()


def test_lines_for_a_slow_reader_are_kept_in_order() -> None:
    with narrow_pipe() as (reader, writer), os.fdopen(os.dup(writer), "w") as raw:
        stream, read = LogStream(raw), ""
        lines = [f"{number}: {'ä' * 3000}\n" for number in range(20)]
        for line in lines:
            stream.write(line)
        while len(read) < sum(map(len, lines)):
            stream.write("")
            read += text(reader)
        assert read == "".join(lines)


def test_dropped_lines_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with narrow_pipe() as (reader, writer), os.fdopen(os.dup(writer), "w") as raw:
        stream = LogStream(raw)
        for number in range(5000):
            stream.write(f"line {number}\n")
        assert not caplog.messages
        read = ""
        while not caplog.messages:
            read += text(reader)
            stream.write("")
        kept = (read + text(reader)).splitlines()
        assert kept == [f"line {number}" for number in range(len(kept))]
        assert [(record.levelno, record.args) for record in caplog.records] == [(logging.WARNING, (5000 - len(kept),))]


def test_drops_are_told_while_another_thread_holds_loggings_lock() -> None:
    with narrow_pipe() as (reader, writer), os.fdopen(os.dup(writer), "w") as raw:
        stream = LogStream(raw)
        while not stream._dropped:
            stream.write(f"{'x' * 4000}\n")
        root = logging.getLogger()
        handler = logging.StreamHandler(stream)
        root.addHandler(handler)
        with handler.lock:  # type: ignore[union-attr]
            telling = threading.Thread(target=drain, args=(stream, reader))
            telling.start()
            poll(lambda: not stream._dropped)
            writing = threading.Thread(target=stream.write, args=("of another thread\n",), daemon=True)
            writing.start()
            writing.join(10)
            stuck = writing.is_alive()
            root.removeHandler(handler)
        telling.join(10)
        assert not stuck and not telling.is_alive()


def drain(stream: LogStream, reader: int) -> None:
    while stream._dropped:
        text(reader)
        stream.write("")


@pytest.mark.parametrize("line", ["x" * 3999, "汉" * 999], ids=["ascii", "chinese"])
def test_lines_of_several_processes_are_not_mixed(line: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as raw:
        LogStream(raw).write(f"{line}\n")
        assert theirs.recv(65536).decode() == f"{line}\n", "written at once"
