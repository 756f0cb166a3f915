"""Renders a folder as kustomize does, with the features that deploy/k8s uses; anything else is refused.

It finds a broken overlay where neither kubectl nor kustomize is installed. Where one is, a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
KEYS = {"apiVersion", "kind", "resources", "nameSuffix", "labels", "patches", "images"}
#: Kinds that other objects refer to: kustomize renames the references too, this module does not.
NAMED_BY_OTHERS = {"ConfigMap", "Secret", "Service", "ServiceAccount", "PersistentVolumeClaim"}
#: Where includeSelectors puts labels, and whether a missing last field is created.
SELECTORS = {
    "Deployment": (("spec", "selector", "matchLabels"), True),
    "Service": (("spec", "selector"), True),
    "PodDisruptionBudget": (("spec", "selector", "matchLabels"), False),
    "NetworkPolicy": (("spec", "podSelector", "matchLabels"), False),
}


class Broken(Exception):
    """The folder cannot be rendered; the message says which file and why."""


def render(folder: Path) -> list[Document]:
    """Every object that `kustomize build folder` prints."""
    file = folder / "kustomization.yaml"
    if not file.is_file():
        raise Broken(f"{file} is missing")
    said = yaml.safe_load(file.read_text())
    if unknown := set(said) - KEYS:
        raise Broken(f"{file}: {sorted(unknown)} is nothing that this renderer knows")
    made = [document for name in said["resources"] for document in _resource(folder, name)]
    for patch in said.get("patches", ()):
        _patch(made, patch, file)
    for document in made:
        _suffix(document, said.get("nameSuffix", ""), file)
    for labels in said.get("labels", ()):
        _label(made, labels, file)
    for image in said.get("images", ()):
        _image(made, image, file)
    names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in made]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Broken(f"{file}: {sorted(twice)} is there twice")
    return made


def _resource(folder: Path, name: str) -> list[Document]:
    path = (folder / name).resolve()
    if path.is_dir():
        return render(path)
    if not path.is_file() or folder.resolve() not in path.parents:  # kustomize reads no file outside the folder
        raise Broken(f"{folder}: no resource {name}")
    # Through JSON, so that objects do not share the value of an anchor.
    return [json.loads(json.dumps(document)) for document in yaml.safe_load_all(path.read_text()) if document]


def _suffix(document: Document, suffix: str, file: Path) -> None:
    if suffix and document["kind"] in NAMED_BY_OTHERS:
        raise Broken(f"{file}: a {document['kind']} with nameSuffix is nothing that this renderer knows")
    document["metadata"]["name"] += suffix


def _label(made: list[Document], labels: Document, file: Path) -> None:
    if unknown := set(labels) - {"pairs", "includeSelectors", "includeTemplates"}:
        raise Broken(f"{file}: labels: {sorted(unknown)}")
    for document in made:
        places: list[tuple[tuple[str, ...], bool]] = [(("metadata", "labels"), True)]
        template = labels.get("includeSelectors") or labels.get("includeTemplates")
        if template and "template" in document.get("spec", {}):
            places.append((("spec", "template", "metadata", "labels"), True))
        if labels.get("includeSelectors") and document["kind"] in SELECTORS:
            places.append(SELECTORS[document["kind"]])
        for (*path, last), make in places:
            at = document
            for part in path:
                at = at[part]
            if make or last in at:
                at[last] = at.get(last, {}) | labels["pairs"]


def _patch(made: list[Document], patch: Document, file: Path) -> None:
    if set(patch) != {"target", "patch"} or set(patch["target"]) != {"kind"}:
        raise Broken(f"{file}: a patch has a target with a kind, and a patch in JSON's form")
    chosen = [document for document in made if document["kind"] == patch["target"]["kind"]]
    if not chosen:
        raise Broken(f"{file}: no {patch['target']['kind']} to patch")
    for document in chosen:
        for step in yaml.safe_load(patch["patch"]):
            try:
                _apply(document, step)
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise Broken(f"{file}: {step['op']} {step['path']}: {error!r}") from error


def _apply(document: Document, step: Document) -> None:
    """One operation of RFC 6902."""
    *path, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:])
    at: Any = document
    for part in path:
        at = at[int(part)] if isinstance(at, list) else at[part]
    where: Any = last if isinstance(at, dict) else len(at) if last == "-" else int(last)
    if step["op"] == "remove":
        del at[where]
    elif step["op"] == "add" and isinstance(at, list):
        if where > len(at):
            raise IndexError(where)
        at.insert(where, step["value"])
    elif step["op"] == "add":
        at[where] = step["value"]
    else:
        raise ValueError(step["op"])


def _image(made: list[Document], image: Document, file: Path) -> None:
    if set(image) != {"name", "newName", "newTag"}:
        raise Broken(f"{file}: an image has name, newName and newTag here")
    used = 0
    for document in made:
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
                used += 1
    if not used:
        raise Broken(f"{file}: nobody uses the image {image['name']}")
