"""Metrics: one answer for all processes, documented, and the only names that alerts and dashboards use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from sytq import config
from sytq.broker.keys import Keys
from sytq.observability import metrics as meter
from sytq.runtime import build
from sytq.service.prometheus import READ
from tests.api.conftest import Api
from tests.servers import poll
from tests.tools import required
from tests.workers import Installation

ROOT = Path(__file__).parents[2]
RULES = ROOT / "etc/prometheus/sytq.rules.yaml"
DASHBOARD = ROOT / "etc/grafana/sytq.json"
DOCS = (ROOT / "docs/metrics.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def everything_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All metrics of ours are declared once the runtime is built and the API imported."""
    import sytq.api.app  # noqa: F401

    url = f"sqlite:///{tmp_path_factory.mktemp('m') / 'sytq.db'}"
    build(config.load(environ={"SYTQ_DATABASE__URL": url}))


def real() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every metric: its kind and its labels."""
    found = {name: ("gauge", labels) for name, (labels, _) in READ.items() if name != "sytq_tasks"}
    found["sytq_tasks_total"] = ("counter", READ["sytq_tasks"][0])
    ours = {name: metric for name, metric in meter.declared().items() if name.startswith("sytq_")}
    return found | {name: (metric.kind, metric.labels) for name, metric in ours.items()}


def used(expression: str) -> set[str]:
    names = set(re.findall(r"\bsytq_[a-z0-9_]+", expression))
    histograms = {name for name, (kind, _) in real().items() if kind == "histogram"}
    return {base if (base := re.sub(r"_(bucket|count|sum)$", "", name)) in histograms else name for name in names}


def test_every_metric_is_documented_with_its_kind_and_labels_and_nothing_else_is() -> None:
    documented = {}
    for name, kind, labels in re.findall(r"^\| `(sytq_\w+)` \| (\w+) \|([^|]*)\|", DOCS, re.MULTILINE):
        documented[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    assert documented == real()


def test_names_follow_prometheus() -> None:
    for name, (kind, labels) in real().items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert kind != "histogram" or name.endswith("_seconds"), name
        assert not {"id", "task_id", "host", "path", "worker"} & set(labels), name


def test_alerts_name_existing_metrics_and_say_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    made = {rule["record"]: used(rule["expr"]) for rule in rules if "record" in rule}
    assert set().union(*made.values()) <= set(real())
    alerts = [rule for rule in rules if "alert" in rule]
    assert len(alerts) > 10
    for rule in alerts:
        names = used(rule["expr"]) | {name for record in made if record in rule["expr"] for name in made[record]}
        assert names, rule["alert"]
        assert names <= set(real()), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    tests = yaml.safe_load(RULES.with_suffix(".test.yaml").read_text())["tests"]
    expected = [one for test in tests for one in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert {one["alertname"] for one in expected if one.get("exp_alerts")} == alerts
    assert {one["alertname"] for one in expected if not one.get("exp_alerts")} == alerts


def test_dashboards_query_existing_metrics() -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 20
    for query in queries:
        assert used(query), query
        assert used(query) <= set(real()), query
    shown = set().union(*map(used, queries))
    assert set(real()) - shown <= {"sytq_build_info", "sytq_type_paused", "sytq_unreadable", "sytq_recorder_waiting"}


def test_the_alerts_fire_as_their_tests_say(tmp_path: Path) -> None:
    promtool = required("promtool", "Debian's package prometheus has it")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULES.with_suffix(".test.yaml"))]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, cwd=RULES.parent, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    # The tests can fail: with a rule made blind one of them does.
    folder = tmp_path / "prometheus"
    shutil.copytree(RULES.parent, folder)
    blind = (folder / RULES.name).read_text().replace("max(sytq_workers) == 0", "max(sytq_workers) == 77")
    (folder / RULES.name).write_text(blind)
    done = subprocess.run([promtool, "test", "rules", RULES.with_suffix(".test.yaml").name], cwd=folder, timeout=60)
    assert done.returncode != 0


def samples(text: bytes) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text.decode(), re.MULTILINE)}


@pytest.fixture
def both(installation: Installation) -> Iterator[tuple[Installation, Api]]:
    """An API of two processes and a worker on the same stores."""
    redis_url, database = installation.environ["SYTQ_REDIS__URL"], installation.environ["SYTQ_DATABASE__URL"]
    plugins = installation.environ["SYTQ_PLUGINS__PATHS"]
    api = Api(database, redis_url, SYTQ_API__WORKERS="2", SYTQ_PLUGINS__PATHS=plugins)
    try:
        yield installation, api.start()
    finally:
        api.remove()


def test_any_process_answers_for_all(both: tuple[Installation, Api]) -> None:
    installation, api = both
    worker = installation.start_worker()
    tasks = [installation.submit("plain", f"t{n}") for n in range(5)]
    for task in tasks:
        installation.wait_state(task, "succeeded")
    dead = installation.submit("failing", "f")
    installation.wait_state(dead, "dead")
    for _ in range(20):
        api.request("GET", "/api/tasks?status=completed")

    def complete(text: bytes) -> Any:
        seen = samples(text)
        listed = 'sytq_http_seconds_count{method="GET",route="/api/tasks",status="200"}'
        runs = 'sytq_task_seconds_count{outcome="succeeded",type="plain"}'
        return seen if seen.get(listed) == 20 and seen.get(runs) == 5 and seen.get("sytq_tasks_dead") == 1 else None

    # Both processes of the API, and any number of answers from each.
    seen = poll(lambda: complete(api.request("GET", "/metrics").body), timeout=60, interval=0.5, message="all is there")
    assert seen['sytq_tasks_total{outcome="succeeded",type="plain"}'] == 5
    assert seen['sytq_tasks_total{outcome="dead",type="failing"}'] == 1
    assert seen['sytq_task_seconds_count{outcome="failed",type="failing"}'] == 2
    assert seen['sytq_task_seconds_bucket{le="+Inf",outcome="succeeded",type="plain"}'] == 5
    assert seen['sytq_task_wait_seconds_count{priority="normal",queue="plain"}'] == 5
    assert seen['sytq_database_seconds_count{outcome="ok"}'] > 10
    assert seen['sytq_redis_seconds_count{script="ack"}'] >= 1
    assert seen["sytq_workers"] == 1
    assert not [name for name in seen if dead in name or tasks[0] in name]
    # What a process has counted outlives it.
    assert worker.terminate() == 0
    api.stop()
    api.start()
    after = poll(lambda: complete(api.request("GET", "/metrics").body), message="nothing is lost")
    assert after["sytq_workers"] == 0
    assert after["sytq_workers_lost"] == 0


def test_a_killed_worker_shows_and_its_task_counts_as_reclaimed(both: tuple[Installation, Api]) -> None:
    installation, api = both
    first = installation.start_worker()
    installation.hold("long")
    task = installation.submit("plain", "long")
    installation.wait_note("start long")
    first.kill()
    installation.release("long")
    installation.start_worker()
    installation.wait_state(task, "succeeded")
    seen = samples(api.request("GET", "/metrics").body)
    assert seen['sytq_tasks_total{outcome="reclaimed",type="plain"}'] == 1
    assert seen["sytq_workers_lost"] == 1


def test_the_recorders_lag_is_the_age_of_the_first_unwritten_event(both: tuple[Installation, Api]) -> None:
    installation, api = both
    keys = installation.runtime.keys
    redis_ = installation.runtime.redis
    seconds, _ = redis_.ask("TIME")
    redis_.ask("XADD", keys.events, f"{(seconds - 100) * 1000}-0", "kind", "started")
    redis_.ask("XADD", keys.events, "*", "kind", "started")
    seen = poll(
        lambda: (now := samples(api.request("GET", "/metrics").body))["sytq_recorder_waiting"] == 2 and now,
        message="two wait",
    )
    assert 99 <= seen["sytq_recorder_lag_seconds"] < 160


def test_a_label_that_callers_fill_ends_as_other(redis_client: redis.Redis) -> None:
    metric = meter.Counter("trial_made_up_total", "For this test.", ("word",))
    meter.take()
    for n in range(2000):
        metric.add(1, f"word-{n}")
    taken = meter.take()
    assert len(taken) == 501
    assert taken[json.dumps(["trial_made_up_total", ["other"], ""])] == 1500


def test_redis_takes_no_more_fields_than_it_should(installation: Installation) -> None:
    keys, call = Keys("sytq"), installation.runtime.redis.call
    assert call("count", [keys.metrics], [2, "a", "1", "b", "2", "c", "3"]) == 2
    assert call("count", [keys.metrics], [2, "a", "0.5", "d", "2"]) == 2
    assert installation.runtime.inspection.measured() == {b"a": b"1.5", b"b": b"2"}


def test_what_could_not_be_published_is_kept() -> None:
    meter.take()
    seconds = meter.Histogram("trial_kept_seconds", "For this test.")
    seconds.observe(0.02)
    taken = meter.take()
    seconds.observe(0.2)
    meter.put_back(taken)
    fields = {name.encode(): repr(amount).encode() for name, amount in meter.take().items()}
    assert meter.read(fields)["trial_kept_seconds"] == {(): {"": pytest.approx(0.22), "0.025": 1.0, "0.25": 1.0}}


def test_one_name_has_one_meaning() -> None:
    meter.Counter("trial_once_total", "For this test.", ("a",))
    with pytest.raises(ValueError, match="declared twice"):
        meter.Counter("trial_once_total", "For this test.", ("b",))
    with pytest.raises(ValueError, match="labels"):
        meter.Counter("trial_once_total", "For this test.", ("a",)).add(1)
