"""docs/configuration.md and etc/sytq.yaml have every setting of the model with its default."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from sytq_plugins.llm.config import StatusLabels

from sytq.config import Settings, load
from sytq.config.compat import NO_EFFECT, VARIABLES
from sytq.config.layers import USUAL_VARIABLES
from sytq.config.problems import Place, place_at

MODEL = type(load(environ={}))  # with the sections of the built-in plugins
ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/configuration.md").read_text()
SAMPLE = ROOT / "etc/sytq.yaml"


def keys(place: Place | None = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of the model; `<name>` is a key that the user chooses, `<n>` an index of a list."""
    place = place or Place(MODEL)
    if place.model and place.model.model_fields and place.model is not StatusLabels:
        for name in place.model.model_fields:
            below = place.below(name)
            assert below is not None
            yield from keys(below, (*path, name))
    elif get_origin(place.type) in (dict, list) and _innermost(place).model_fields:
        step = "<name>" if get_origin(place.type) is dict else "<n>"
        yield from keys(Place(get_args(place.type)[-1]), (*path, step))
    else:
        yield path


def _innermost(place: Place) -> Any:
    """The model of the entries of a mapping or list, also of a nested one."""
    while get_origin(place.type) in (dict, list):
        place = Place(get_args(place.type)[-1])
    return place.model or BaseModel


KEYS = [".".join(path) for path in keys()]


def rows() -> dict[str, list[str]]:
    found = {}
    for line in DOCS.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`([a-z_]+\.[a-z_.<>]+)`", cells[0]):
            found[match[1]] = cells
    return found


def everything_uncommented() -> str:
    lines = SAMPLE.read_text().splitlines()
    shown = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        example_below = re.match(r"(\s*)#\S", after)
        if example_below and len(example_below[1]) > len(line) - len(line.lstrip(" #")):
            line = re.sub(r": (\{\}|\[\])", ":", line)
        shown.append(re.sub(r"^(\s*)#(?=\S)", r"\1", line))
    return "\n".join(shown)


def test_the_walk_finds_settings_at_every_depth() -> None:
    assert {"api.port", "deepseek.circuit_breaker.enabled", "types.<name>.retry.first", "auth.users"} <= set(KEYS)


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert sorted(rows()) == sorted(KEYS)
    for key, cells in rows().items():
        assert len(cells) == 5, f"{key}: {cells}"
        assert all(cells[index] for index in (0, 1, 4)), f"{key} needs a type and a meaning"


def test_documented_defaults_match_the_model() -> None:
    real = {key: value for key, value, _ in load(environ={}).describe()}
    for name in ("base_url", "model"):
        real[f"providers.<name>.{name}"] = "required"
    price, node = {"input": 1, "output": 1}, {"name": "n", "prompt": "p"}
    environ = {"SYTQ_PROVIDERS__X__BASE_URL": "http://h", "SYTQ_PROVIDERS__X__MODEL": "m"}
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    lists = {
        "streams": {"stream": "x"},
        "webhook.secrets": {"match": "*", "secret": secret},
        "webhook.hosts": {"match": "*"},
        "webhook.client_certificates": {"match": "*", "cert": "x", "key": "x"},
    }
    environ |= {f"SYTQ_{key.upper().replace('.', '__')}": json.dumps([entry]) for key, entry in lists.items()}
    environ |= {"SYTQ_PROVIDERS__X__MODELS": json.dumps({"x": {"prices": [price]}})}
    environ |= {"SYTQ_LLM__PIPELINES": json.dumps({"x": [node]}), "SYTQ_LLM__TABLES": '{"x": {}}'}
    sample = load(environ=environ | {"SYTQ_SCHEDULES__X": '{"cron": "0 3 * * *"}'})
    for key, value, _ in sample.describe():
        key = re.sub(r"\b(providers|models|schedules|tables|pipelines)\.x\b", r"\1.<name>", key)
        real.setdefault(key, value)
        if key in ("providers.<name>.models.<name>.prices", "llm.pipelines.<name>"):
            (entry,) = json.loads(value)
            real |= {f"{key}.<n>.{name}": "" if inner is None else _said(inner) for name, inner in entry.items()}
    real |= {f"providers.<name>.models.<name>.prices.<n>.{name}": "required" for name in price}
    real |= {f"llm.pipelines.<name>.<n>.{name}": "required" for name in node}
    real["schedules.<name>.cron"] = ""
    for name, given in lists.items():
        (entry,) = json.loads(dict((key, value) for key, value, _ in sample.describe())[name])
        real |= {f"{name}.<n>.{key}": "" if value is None else str(value) for key, value in entry.items()}
        real |= {f"{name}.<n>.{key}": "required" for key in given}
    real["llm.status_labels"] = "en"
    weights = {
        key.rpartition(".")[2]: value for key, value in real.items() if key.startswith("worker.priority_weights.")
    }
    real["worker.priority_weights"] = ", ".join(f"{priority}: {weight}" for priority, weight in weights.items())
    for key, cells in rows().items():
        assert cells[2].strip("`") == real.get(key, ""), key


def _said(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def test_settings_without_effect_are_documented_as_such() -> None:
    assert {key for key, cells in rows().items() if re.match("accepted.*no effect", cells[4])} == NO_EFFECT


def test_every_old_variable_is_documented_with_its_setting() -> None:
    documented = {name: key for key, cells in rows().items() for name in re.findall(r"`(\w+)`", cells[3])}
    assert documented == {**VARIABLES, **USUAL_VARIABLES}


def test_the_sample_loads_and_changes_nothing() -> None:
    def values(settings: Settings) -> list[tuple[str, str]]:
        return [(key, value) for key, value, _ in settings.describe()]

    assert values(load(str(SAMPLE), environ={})) == values(load(environ={}))


def test_the_sample_names_every_setting() -> None:
    tree = yaml.safe_load(everything_uncommented())
    missing = [key for key in KEYS if not _stands(tree, key.split("."))]
    assert missing == []


def test_the_sample_loads_with_its_examples_uncommented(tmp_path: Path) -> None:
    tree = yaml.safe_load(everything_uncommented())
    del tree["redis"]["addr"]  # one of the two forms
    tree["mysql"]["dsn"] = tree["mysql"]["dsn"].replace("&parseTime=True&loc=Local", "")
    file = tmp_path / "sytq.yaml"
    file.write_text(yaml.safe_dump(tree))
    settings = load(str(file), environ={})
    assert settings.llm_provider == "local"
    assert settings.types["webhook"].retry.max == 600.0


def test_every_documented_sytq_variable_is_a_setting() -> None:
    for name in re.findall(r"SYTQ_(\w+__\w+)", DOCS + SAMPLE.read_text()):
        assert place_at(tuple(name.lower().removesuffix("_file").split("__")), MODEL), name


def _stands(tree: object, path: list[str]) -> bool:
    if not path:
        return True
    if isinstance(tree, list):
        return path[0] == "<n>" and any(_stands(inner, path[1:]) for inner in tree)
    if not isinstance(tree, dict):
        return False
    if path[0] == "<name>":  # in any of the examples
        return any(_stands(inner, path[1:]) for inner in tree.values())
    return path[0] in tree and _stands(tree[path[0]], path[1:])
