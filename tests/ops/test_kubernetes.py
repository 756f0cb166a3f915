"""The manifests: valid by Kubernetes' own schemas, tight, and in step with the processes they run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sytq import config
from sytq.runtime import build
from tests.ops.test_metrics import everything_imported, real, used  # noqa: F401 (a fixture that applies by itself)

K8S = Path(__file__).parents[2] / "deploy/k8s"
VERSIONS = ("1.27", "1.32", "1.37")
OVERLAYS = (K8S, K8S / "overlays/queues")
#: Kinds whose schema is not Kubernetes' own.
FOREIGN = {"Kustomization", "ScaledObject"}


def documents() -> list[tuple[str, dict[str, Any]]]:
    """Every object as it stands in the files."""
    return [
        (f"{file.relative_to(K8S)}:{document['kind']}", document)
        for file in sorted(K8S.rglob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]


OBJECTS = documents()


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for _, document in OBJECTS if document["kind"] == kind]


def pods() -> list[dict[str, Any]]:
    return [owner["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for owner in of_kind(kind)]


def validate(document: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(("name", "document"), OBJECTS, ids=[name for name, _ in OBJECTS])
def test_every_object_is_valid(name: str, document: dict[str, Any]) -> None:
    if document["kind"] not in FOREIGN:
        validate(document)


def test_an_invalid_one_would_be_found() -> None:
    broken = of_kind("Deployment")[0] | {"spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


def test_every_file_is_part_of_something_and_every_part_is_there() -> None:
    named = {K8S / "kustomization.yaml", OVERLAYS[1] / "kustomization.yaml"}
    for file in K8S.rglob("kustomization.yaml"):
        for resource in yaml.safe_load(file.read_text())["resources"]:
            path = (file.parent / resource).resolve()
            assert path.exists(), f"{file}: {resource}"
            named.add(path / "kustomization.yaml" if path.is_dir() else path)
    assert set(K8S.rglob("*.yaml")) == named


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_what_kustomize_makes_of_it_is_valid_and_fits_together(overlay: Path) -> None:
    programs = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    program = next((command for name, command in programs.items() if shutil.which(name)), None)
    if program is None:  # no package of Debian has one that is new enough
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run([*program, str(overlay)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    for document in made:
        if document["kind"] not in FOREIGN:
            validate(document)
    deployments = {one["metadata"]["name"]: one for one in made if one["kind"] == "Deployment"}
    assert len(deployments) >= 2
    for one in deployments.values():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for budget in (one for one in made if one["kind"] == "PodDisruptionBudget"):
        chosen = budget["spec"]["selector"]["matchLabels"].items()
        assert [
            one for one in deployments.values() if chosen <= one["spec"]["template"]["metadata"]["labels"].items()
        ] == [deployments[budget["metadata"]["name"]]]
    for scaled in (one for one in made if one["kind"] == "ScaledObject"):
        target = scaled["spec"]["scaleTargetRef"]["name"]
        assert target == scaled["metadata"]["name"]
        assert "replicas" not in deployments[target]["spec"], "KEDA's affair"
    queues = [
        queue
        for one in deployments.values()
        for variable in one["spec"]["template"]["spec"]["containers"][0]["env"]
        if variable["name"] == "SYTQ_WORKER__QUEUES"
        for queue in json.loads(variable["value"])
    ]
    if queues:
        ours = {declared.queue for declared in build(config.load(environ={})).registry}
        assert sorted(queues) == sorted(ours), "each queue in one group"


def test_pods_have_no_rights_that_they_do_not_need() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} == set(container["resources"])


def test_the_metadata_address_is_out_of_reach() -> None:
    policies = of_kind("NetworkPolicy")
    assert len(policies) == 2
    for policy in policies:
        blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
        assert all("169.254.0.0/16" in one["except"] or ":" in one["cidr"] for one in blocks)


def test_grace_probes_and_ports_are_those_of_the_processes() -> None:
    named = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in of_kind("Deployment")}
    api, worker = named["sytq-api"], named["sytq-worker"]
    settings = config.load(environ={})
    pause = int(api["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert api["terminationGracePeriodSeconds"] > settings.api.graceful_timeout + pause
    assert worker["terminationGracePeriodSeconds"] > settings.worker.shutdown_timeout + 15
    given = yaml.safe_load(of_kind("ConfigMap")[0]["data"]["sytq.yaml"])
    ports = {"api": given["api"]["port"], "worker": given["worker"]["port"]}
    for pod in (api, worker):
        (container,) = pod["containers"]
        assert container["ports"][0]["containerPort"] == ports[container["name"]]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_keda_asks_for_metrics_that_there_are() -> None:
    scaled = of_kind("ScaledObject")
    assert len(scaled) == 2
    for one in scaled:
        (trigger,) = one["spec"]["triggers"]
        assert trigger["type"] == "prometheus"
        assert used(trigger["metadata"]["query"]) == {"sytq_queue_waiting", "sytq_queue_running"}
        assert used(trigger["metadata"]["query"]) <= set(real())
