"""`sytq top` and `sytq stats`: the installed program with and without a terminal, beside real workers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.installation import Installation
from tests.servers import RedisServer, free_port, poll
from tests.terminal import Terminal, sytq


def test_top_updates_live_and_ends_with_q(installation: Installation) -> None:
    worker = installation.start_worker()
    terminal = Terminal("top", "--interval", "300ms", environ=installation.environ, columns=160)
    terminal.wait_for("1 worker\x1b")
    terminal.wait_for("all queues are empty")
    assert "\x1b[?1049h" in terminal.text  # the alternate screen
    dead = installation.submit("hopeless", "h")
    installation.submit("plain", "p", seconds=600)
    installation.wait_state(dead, "dead")
    terminal.wait_for(dead)
    terminal.wait_for("there is no hope")
    terminal.wait_for("plain")
    worker.kill()
    terminal.wait_for("0 workers, 1 lost")
    terminal.type("x")  # not a key of top
    terminal.type("q")
    assert terminal.ended() == 0
    assert (
        terminal.text.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in terminal.text[-200:]
    )  # the screen is restored
    assert "Traceback" not in terminal.text
    terminal.close()


def test_top_ends_with_ctrl_c(installation: Installation) -> None:
    terminal = Terminal("top", environ=installation.environ)
    terminal.wait_for("0 workers")
    terminal.type("\x03")
    assert terminal.ended() == 130 and "Traceback" not in terminal.text
    terminal.close()


def test_top_continues_after_a_redis_outage(tmp_path: Path, own_redis: RedisServer) -> None:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    terminal = Terminal("top", "--interval", "200ms", environ=made.environ)
    terminal.wait_for("0 workers")
    own_redis.kill()
    terminal.wait_for("Redis does not answer")
    own_redis.start()
    terminal.text = ""
    terminal.wait_for("0 workers")
    terminal.type("q")
    assert terminal.ended() == 0
    terminal.close()
    made.close()


def test_top_prints_once_without_a_terminal(installation: Installation) -> None:
    installation.submit("plain", "a")
    once = sytq("top", "--interval", "200ms", environ=installation.environ)
    assert once.returncode == 0 and "\x1b" not in once.stdout and once.stderr == ""
    (line,) = [line.split() for line in once.stdout.splitlines() if line.startswith("plain ")][:1]
    assert line[:4] == ["plain", "normal", "1", "0"]
    report = json.loads(sytq("top", "--interval", "200ms", "--json", environ=installation.environ).stdout)
    assert report["workers"] == {"alive": 0, "lost": 0} and report["unavailable"] == []
    (rate,) = report["rates"]
    assert (rate["type"], rate["submitted"]) == ("plain", 0.0)
    without_redis = installation.environ | {"SYTQ_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0"}
    report = json.loads(sytq("top", "--json", environ=without_redis).stdout)
    assert report["workers"] is None and "Redis does not answer" in report["unavailable"][0]


def test_stats_count_the_tasks_of_a_period(installation: Installation) -> None:
    installation.start_worker()
    tasks = [installation.submit("plain", f"p{n}") for n in range(3)] + [installation.submit("hopeless")]
    for task in tasks:
        installation.wait_state(task, "succeeded", "dead")
    poll(lambda: all(installation.row(task).finished_at for task in tasks))
    report = json.loads(sytq("stats", "--json", environ=installation.environ).stdout)
    assert (report["types"]["plain"]["succeeded"], report["types"]["hopeless"]["dead"]) == (3, 1)
    assert (report["total"]["accepted"], report["total"]["dead"]) == (4, 1) and report["total"]["took_p99"] > 0
    lines = sytq("stats", "--type", "plain", environ=installation.environ).stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["plain", "3", "3"], ["(all)", "3", "3"]]
    before = sytq("stats", "--since", "2h", "--until", "1h", "--json", environ=installation.environ)
    assert json.loads(before.stdout)["types"] == {}
    wrong = sytq("stats", "--since", "1h", "--until", "2h", environ=installation.environ)
    assert wrong.returncode == 2 and "the period begins after its end" in wrong.stderr
