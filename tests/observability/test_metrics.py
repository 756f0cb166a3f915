"""Metrics: one answer for a group of processes; documentation, alerts and dashboards use the declared names."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from sytq import config
from sytq.observability import metrics, process_group
from sytq.runtime import build
from sytq.service.prometheus import READ
from tests.installation import Installation, samples
from tests.servers import poll
from tests.tools import required

ROOT = Path(__file__).parents[2]
RULES = ROOT / "etc/prometheus/sytq.rules.yaml"
DASHBOARD = ROOT / "etc/grafana/sytq.json"
DOCS = (ROOT / "docs/metrics.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def everything_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All metrics of sytq are declared once the runtime is built and the API imported."""
    import sytq.api.app
    import sytq.worker_runtime  # noqa: F401

    url = f"sqlite:///{tmp_path_factory.mktemp('m') / 'sytq.db'}"
    build(config.load(environ={"SYTQ_DATABASE__URL": url}))


def real() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every metric: its kind and its labels."""
    found = {name: ("gauge", labels) for name, (labels, _) in READ.items() if name != "sytq_tasks"}
    found["sytq_tasks_total"] = ("counter", READ["sytq_tasks"][0])
    ours = {name: metric for name, metric in metrics.declared.items() if name.startswith("sytq_")}
    return found | {name: (metric.kind, metric.labels) for name, metric in ours.items()}


def used(expression: str) -> set[str]:
    names = set(re.findall(r"\bsytq_[a-z0-9_]+", expression))
    histograms = {name for name, (kind, _) in real().items() if kind == "histogram"}
    return {base if (base := re.sub(r"_(bucket|count|sum)$", "", name)) in histograms else name for name in names}


def test_documented_metrics_match_the_declared_metrics() -> None:
    documented = {}
    for name, kind, labels in re.findall(r"^\| `(sytq_\w+)` \| (\w+) \|([^|]*)\|", DOCS, re.MULTILINE):
        documented[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    assert documented == real()


def test_metric_names_follow_prometheus_conventions() -> None:
    for name, (kind, labels) in real().items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert kind != "histogram" or name.endswith("_seconds"), name
        assert not {"id", "task_id", "host", "path", "worker"} & set(labels), name


def test_alerts_use_existing_metrics_and_link_to_the_runbook() -> None:
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


def test_every_alert_has_a_firing_and_a_silent_test() -> None:
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


def test_alert_rules_pass_their_promtool_tests(tmp_path: Path) -> None:
    promtool = required("promtool", "Debian's package prometheus has it")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULES.with_suffix(".test.yaml"))]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, cwd=RULES.parent, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    # The rule tests can fail: with a broken rule one of them does.
    folder = tmp_path / "prometheus"
    shutil.copytree(RULES.parent, folder)
    blind = (folder / RULES.name).read_text().replace("max(sytq_workers) == 0", "max(sytq_workers) == 77")
    (folder / RULES.name).write_text(blind)
    done = subprocess.run([promtool, "test", "rules", RULES.with_suffix(".test.yaml").name], cwd=folder, timeout=300)
    assert done.returncode != 0


@pytest.fixture
def serving(installation: Installation) -> Installation:
    """An installation with an API of two processes."""
    installation.start_api(SYTQ_API__WORKERS="2", RUNTIME_DIRECTORY=str(installation.folder))
    return installation


def test_each_api_process_reports_metrics_of_its_group_and_the_stores(serving: Installation) -> None:
    worker = serving.start_worker()
    tasks = [serving.submit("plain", f"t{n}") for n in range(5)]
    for task in tasks:
        serving.wait_state(task, "succeeded")
    dead = serving.submit("failing", "f")
    serving.wait_state(dead, "dead")
    for _ in range(20):
        serving.request("GET", "/api/tasks?status=completed")

    def complete(text: bytes) -> Any:
        seen = samples(text)
        listed = 'sytq_http_seconds_count{method="GET",route="/api/tasks",status="200"}'
        return seen if seen.get(listed) == 20 and seen.get("sytq_tasks_dead") == 1 else None

    # Either process of the API may answer.
    seen = poll(
        lambda: complete(serving.request("GET", "/metrics").body), timeout=60, interval=0.5, message="all is there"
    )
    assert seen['sytq_tasks_total{outcome="succeeded",type="plain"}'] == 5
    assert seen['sytq_tasks_total{outcome="dead",type="failing"}'] == 1
    assert seen['sytq_database_seconds_count{outcome="ok"}'] >= 20
    assert seen["sytq_workers"] == 1
    assert not [name for name in seen if dead in name or tasks[0] in name]
    assert not [name for name in seen if name.startswith("sytq_task_seconds")], "the workers report these"
    counted = serving.counted()
    assert counted['sytq_task_seconds_count{outcome="failed",type="failing"}'] == 2
    assert counted['sytq_task_seconds_bucket{le="+Inf",outcome="succeeded",type="plain"}'] == 5
    assert counted['sytq_task_wait_seconds_count{priority="normal",queue="plain"}'] == 5
    assert counted['sytq_redis_seconds_count{script="ack"}'] >= 1
    assert not [name for name in counted if name.endswith("_created")]
    assert worker.terminate() == 0
    poll(
        lambda: (after := samples(serving.request("GET", "/metrics").body))["sytq_workers"] == 0 and after,
        message="the worker is gone",
    )


def test_counts_of_killed_api_processes_are_kept(serving: Installation) -> None:
    (folder,) = serving.folder.glob(f"sytq-*-{serving.gunicorn.pid}")
    listed = 'sytq_http_seconds_count{method="GET",route="/api/tasks",status="200"}'
    for round_ in range(1, 4):
        for _ in range(10):
            serving.request("GET", "/api/tasks")
        poll(
            lambda want=10 * round_: samples(serving.request("GET", "/metrics").body).get(listed) == want,
            interval=0.5,
            message="all are counted",
        )
        pids = {int(file.stem.rpartition("_")[2]) for file in folder.glob("histogram_[0-9]*.db")} - {
            serving.gunicorn.pid
        }
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        poll(
            lambda gone=pids: not [pid for pid in gone if (folder / f"histogram_{pid}.db").exists()],
            message="their files are merged",
        )
        # A request waits in the master's queue until there are new processes.
    assert serving.gunicorn.terminate() == 0
    assert not folder.exists()


def test_killed_worker_is_counted_as_lost_and_its_task_as_reclaimed(serving: Installation) -> None:
    first = serving.start_worker()
    serving.hold("long")
    task = serving.submit("plain", "long")
    serving.wait_note("start long")
    first.kill()
    serving.release("long")
    serving.start_worker()
    serving.wait_state(task, "succeeded")
    seen = samples(serving.request("GET", "/metrics").body)
    assert seen['sytq_tasks_total{outcome="reclaimed",type="plain"}'] == 1
    assert seen["sytq_workers_lost"] == 1


def test_the_recorders_lag_is_the_age_of_the_first_unwritten_event(serving: Installation) -> None:
    keys = serving.runtime.keys
    redis_ = serving.runtime.redis
    seconds, _ = redis_.ask("TIME")
    redis_.ask("XADD", keys.events, f"{(seconds - 100) * 1000}-0", "kind", "started")
    redis_.ask("XADD", keys.events, "*", "kind", "started")
    seen = poll(
        lambda: (now := samples(serving.request("GET", "/metrics").body))["sytq_recorder_waiting"] == 2 and now,
        message="two wait",
    )
    assert 99 <= seen["sytq_recorder_lag_seconds"] < 160


def test_label_values_beyond_500_are_counted_as_other() -> None:
    metric = metrics.Counter("trial_made_up_total", "For this test.", ("word",))
    for n in range(2000):
        metric.add(1, f"word-{n}")
    seen = samples(generate_latest(process_group.GroupCollector()))
    found = {name: count for name, count in seen.items() if name.startswith("trial_made_up_total")}
    assert len(found) == 501
    assert found['trial_made_up_total{word="other"}'] == 1500


def test_counts_of_dead_processes_are_kept_in_one_file(tmp_path: Path) -> None:
    code = """
import os, sys
from sytq.observability import metrics, process_group
seconds = metrics.Histogram("trial_kept_seconds", "For this test.", ("of",))
seconds.observe(9, "a")  # counted before, which another process may have done
process_group.share(os.getppid())
seconds.observe(0.02, "a")
seconds.observe(0.2, "b")
print(len(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
"""
    environ = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path), "PYTHONPATH": str(ROOT)}
    (tmp_path / f"sytq-{os.getuid()}-{2**22 + 1}").mkdir()  # of a master that no longer exists
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) <= 2
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"sytq-{os.getuid()}-{os.getpid()}"
    seen = samples(generate_latest(MultiProcessCollector(None, str(folder))))
    assert seen['trial_kept_seconds_count{of="a"}'] == 4
    assert seen['trial_kept_seconds_sum{of="b"}'] == pytest.approx(0.8)
    assert seen['trial_kept_seconds_bucket{le="0.1",of="a"}'] == 4
    assert seen['trial_kept_seconds_bucket{le="0.1",of="b"}'] == 0


def test_metric_declared_twice_with_other_labels_is_refused() -> None:
    metrics.Counter("trial_once_total", "For this test.", ("a",))
    with pytest.raises(ValueError, match="declared twice"):
        metrics.Counter("trial_once_total", "For this test.", ("b",))
    metrics.Counter("trial_once_total", "For this test.", ("a",)).add(2, "x")
    metrics.Counter("trial_once_total", "Loaded again.", ("a",)).add(2, "x")
    assert samples(generate_latest(metrics.registry))['trial_once_total{a="x"}'] == 4
    with pytest.raises(ValueError, match="labels"):
        metrics.Counter("trial_once_total", "For this test.", ("a",)).add(1)


def test_durations_counted_together_are_those_counted_one_by_one() -> None:
    one_by_one = metrics.Histogram("trial_single_seconds", "For this test.", ("of",))
    together = metrics.Histogram("trial_joint_seconds", "For this test.", ("of",))
    seconds = [-1.0, 0.0, 0.004, 0.01, 0.0101, 0.25, 600.0, 601.0]
    for each in seconds:
        one_by_one.observe(each, "a")
    together.observe_all(seconds, "a")
    try:
        text = generate_latest(metrics.registry).decode()
        single = [line.removeprefix("trial_single") for line in text.splitlines() if line.startswith("trial_single")]
        assert [f"trial_joint{line}" for line in single] == [
            line for line in text.splitlines() if line.startswith("trial_joint")
        ]
        assert 'trial_joint_seconds_bucket{le="0.01",of="a"} 4.0' in text
    finally:
        for name in ("trial_single_seconds", "trial_joint_seconds"):
            metrics.declared.pop(name).forget()
