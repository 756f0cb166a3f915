"""The manifests: valid by Kubernetes' own schemas, restrictive, and consistent with the processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sytq import config
from sytq.runtime import build
from tests.deployment.kustomize import Broken, render
from tests.observability.test_metrics import everything_imported, real, used  # noqa: F401 (a fixture that applies by itself)

K8S = Path(__file__).parents[2] / "deploy/k8s"
VERSIONS = ("1.27", "1.32", "1.37")
OVERLAYS = (K8S, K8S / "overlays/queues")
#: Not objects of a cluster: tests/deployment/kustomize.py refuses unknown fields.
FOREIGN = {"Kustomization"}


def documents() -> list[tuple[str, dict[str, Any]]]:
    """Every object of the files, not rendered."""
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


def strict(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}
#: The used part of KEDA's ScaledObject: its own definition silently accepts unknown fields.
SCALED_OBJECT = strict(
    "apiVersion kind metadata spec",
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=strict("name", name=TEXT, labels={"type": "object"}),
    spec=strict(
        "scaleTargetRef triggers",
        scaleTargetRef=strict("name", name=TEXT),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        # An outage of Redis or Prometheus must not stop workers with running calls.
        fallback=strict(
            "failureThreshold replicas behavior",
            failureThreshold=COUNT,
            replicas=COUNT,
            behavior={"const": "currentReplicasIfHigher"},
        ),
        triggers={
            "type": "array",
            "items": strict(
                "type metadata",
                type={"const": "prometheus"},
                metadata=strict(
                    "serverAddress query threshold ignoreNullValues",
                    **dict.fromkeys(("serverAddress", "query", "threshold", "activationThreshold"), TEXT),
                    ignoreNullValues={"const": "false"},
                ),
            ),
        },
    ),
)


def validate(document: dict[str, Any]) -> None:
    if document["kind"] == "ScaledObject":
        jsonschema.validate(document, SCALED_OBJECT)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(("name", "document"), OBJECTS, ids=[name for name, _ in OBJECTS])
def test_every_object_is_valid(name: str, document: dict[str, Any]) -> None:
    if document["kind"] not in FOREIGN:
        validate(document)


def test_invalid_object_is_found() -> None:
    broken = of_kind("Deployment")[0] | {"spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


def test_every_manifest_is_referenced_and_every_reference_exists() -> None:
    named = {K8S / "kustomization.yaml", OVERLAYS[1] / "kustomization.yaml"}
    for file in K8S.rglob("kustomization.yaml"):
        for resource in yaml.safe_load(file.read_text())["resources"]:
            path = (file.parent / resource).resolve()
            assert path.exists(), f"{file}: {resource}"
            named.add(path / "kustomization.yaml" if path.is_dir() else path)
    assert set(K8S.rglob("*.yaml")) == named


def built(overlay: Path) -> list[dict[str, Any]]:
    """The rendered, valid objects of an overlay."""
    made = render(overlay)
    for document in made:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"]), "no schema says so"
        validate(document)
    return made


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_rendered_overlay_is_valid_and_consistent(overlay: Path) -> None:
    made = built(overlay)
    deployments = {one["metadata"]["name"]: one for one in made if one["kind"] == "Deployment"}
    assert len(deployments) >= 2
    selectors = []
    for one in deployments.values():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        selectors.append(one["spec"]["selector"]["matchLabels"])
    assert all(selectors.count(one) == 1 for one in selectors), "nobody takes another's pods for its own"
    for budget in (one for one in made if one["kind"] == "PodDisruptionBudget"):
        chosen = budget["spec"]["selector"]["matchLabels"].items()
        assert [
            one for one in deployments.values() if chosen <= one["spec"]["template"]["metadata"]["labels"].items()
        ] == [deployments[budget["metadata"]["name"]]]
    for scaled in (one for one in made if one["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")):
        target = scaled["spec"]["scaleTargetRef"]["name"]
        assert target == scaled["metadata"]["name"]
        assert "replicas" not in deployments[target]["spec"], "the autoscaler's affair"
    for policy in (one for one in made if one["kind"] == "NetworkPolicy"):
        chosen = policy["spec"]["podSelector"]["matchLabels"].items()
        held = [
            name for name, one in deployments.items() if chosen <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert held, "it holds for somebody"
    # References of pods exist, except the Secret of the overlay, which the operator creates.
    there = {(one["kind"], one["metadata"]["name"]) for one in made} | {("Secret", "sytq")}
    for owner in (one for one in made if one["kind"] in ("Deployment", "Job")):
        pod = owner["spec"]["template"]["spec"]
        needed = {("ConfigMap", one["configMap"]["name"]) for one in pod["volumes"] if "configMap" in one}
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            needed |= {("Secret", one["secretRef"]["name"]) for one in container["envFrom"]}
            assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}
            assert ":" in container["image"], "the overlay names a version"
        assert needed <= there
    queues = [
        queue
        for one in deployments.values()
        for variable in one["spec"]["template"]["spec"]["containers"][0]["env"]
        if variable["name"] == "SYTQ_WORKER__QUEUES"
        for queue in json.loads(variable["value"])
    ]
    if overlay.name == "queues":
        ours = {declared.queue for declared in build(config.load(environ={})).registry}
        assert sorted(queues) == sorted(ours), "each queue in one group"


def kustomized(folder: Path) -> Iterable[dict[str, Any]]:
    """The objects that kustomize itself renders."""
    programs = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    program = next((command for name, command in programs.items() if shutil.which(name)), None)
    if program is None:  # Debian's packages are too old
        pytest.skip(
            "neither kubectl nor kustomize is installed: the overlays were rendered by tests/deployment/kustomize.py"
        )
    done = subprocess.run([*program, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load_all(done.stdout)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_kustomize_renders_the_same_objects(overlay: Path) -> None:
    def by_name(documents: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(one["kind"], one["metadata"]["name"]): one for one in documents}

    assert by_name(kustomized(overlay)) == by_name(render(overlay))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("overlays/queues/kustomization.yaml", "rest]", "rets]"),
        ("overlays/queues/kustomization.yaml", "llm, webhook", "llm, llm, webhook"),
        ("overlays/queues/kustomization.yaml", "images:", "imgaes:"),
        ("overlays/queues/kustomization.yaml", "name: sytq\n", "name: other\n"),
        ("overlays/queues/llm/kustomization.yaml", "nameSuffix: -llm", "nameSuffix: -webhook"),
        ("overlays/queues/llm/kustomization.yaml", "nameSuffix: -llm", "nameSuffix: -LLM_"),
        ("overlays/queues/llm/kustomization.yaml", "kind: Deployment", "kind: StatefulSet"),
        ("overlays/queues/llm/kustomization.yaml", "containers/0", "containers/1"),
        ("overlays/queues/llm/kustomization.yaml", "path: /spec/replicas", "path: /spec/replica"),
        ("overlays/queues/llm/kustomization.yaml", "value: {name: SYTQ_WORKER__QUEUES,", "value: {nam: SYTQ,"),
        ("overlays/queues/llm/scale.yaml", "threshold:", "treshold:"),
        ("overlays/queues/llm/scale.yaml", "ignoreNullValues:", "#"),
        ("overlays/queues/llm/scale.yaml", ", behavior: currentReplicasIfHigher", ""),
        ("worker/worker.yaml", "containers:\n", "container:\n"),
    ],
)
def test_broken_overlay_is_refused(tmp_path: Path, file: str, old: str, new: str) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    text = (tmp_path / "k8s" / file).read_text()
    assert old in text
    (tmp_path / "k8s" / file).write_text(text.replace(old, new, 1))
    with pytest.raises((Broken, AssertionError, jsonschema.ValidationError)):
        built(tmp_path / "k8s/overlays/queues")


def state_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The volume of the working directory, where tasks write."""
    (container,) = pod["containers"]
    (name,) = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/var/lib/sytq"]
    return {key: value for one in pod["volumes"] if one["name"] == name for key, value in one.items() if key != "name"}


def test_documented_volume_claim_keeps_the_files_of_tasks(tmp_path: Path) -> None:
    assert [state_of(pod) for pod in pods() if pod["containers"][0]["name"] == "worker"] == [{"emptyDir": {}}]
    page = (K8S.parents[1] / "docs/operations.md").read_text()
    claim, patch = re.findall(r"^```yaml\n(.*?)^```", page.partition("\n## Kubernetes\n")[2], re.MULTILINE | re.DOTALL)
    validate(yaml.safe_load(claim))
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/claim.yaml").write_text(claim)
    (tmp_path / "ours/kustomization.yaml").write_text(patch)
    made = {(one["kind"], one["metadata"]["name"]): one for one in kustomized(tmp_path / "ours")}
    for document in made.values():
        validate(document)
    name = made["PersistentVolumeClaim", "sytq-state"]["metadata"]["name"]
    worker = made["Deployment", "sytq-worker"]["spec"]["template"]["spec"]
    assert state_of(worker) == {"persistentVolumeClaim": {"claimName": name}}


def test_pods_have_least_privileges() -> None:
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


def test_egress_to_the_metadata_address_is_blocked() -> None:
    policies = of_kind("NetworkPolicy")
    assert len(policies) == 2
    for policy in policies:
        blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
        assert all("169.254.0.0/16" in one["except"] or ":" in one["cidr"] for one in blocks)


def test_grace_periods_probes_and_ports_match_the_processes() -> None:
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
        # tests/api/test_health.py and tests/worker/test_health_server.py test these endpoints. The API is ready for
        # traffic as long as it answers: see the manifest.
        path = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
        assert path["liveness"] == "/healthz/live"
        assert set(path.values()) <= {"/healthz/live", "/healthz/ready", "/healthz/startup"}
        assert {container[f"{probe}Probe"]["httpGet"]["port"] for probe in path} == {container["ports"][0]["name"]}


def test_keda_queries_existing_metrics() -> None:
    scaled = of_kind("ScaledObject")
    assert len(scaled) == 2
    for one in scaled:
        (trigger,) = one["spec"]["triggers"]
        assert trigger["type"] == "prometheus"
        assert used(trigger["metadata"]["query"]) == {"sytq_queue_waiting", "sytq_queue_running"}
        assert used(trigger["metadata"]["query"]) <= set(real())
