"""The registry: what is loaded, refused or quarantined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sytq import config, task
from sytq.errors import ConfigError, DuplicatePlugin, InvalidInput
from sytq.tasktypes.registry import Registry

TYPE = '''
from pydantic import BaseModel
from sytq import Backoff, task

class Payload(BaseModel):
    """It counts."""
    n: int

@task("{name}", payload=Payload, retry=Backoff(first="1s", max_attempts=5), timeout="10s")
def {name}(ctx, payload):
    return payload.n
'''


def load(folder: Path, **settings: str) -> Registry:
    return Registry.load(config.load(environ={"SYTQ_PLUGINS__PATHS": f'["{folder}"]', **settings}))


def test_built_in_types_are_loaded_from_entry_points(tmp_path: Path) -> None:
    names = {declared.name for declared in load(tmp_path)}
    assert {"llm", "webhook", "callback", "cleanup", "llm.dead"} <= names


def test_a_file_in_a_plugin_folder_is_loaded_as_a_type(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(TYPE.format(name="one"))
    declared = load(tmp_path).get("one")
    assert (declared.queue, declared.timeout, declared.retry.max_attempts) == ("default", 10.0, 5)
    assert declared.source == str(tmp_path / "one.py")
    with pytest.raises(InvalidInput, match="n: Input should be a valid integer"):
        declared.parse({"n": "many"})


def test_configuration_overrides_a_type(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(TYPE.format(name="one"))
    section = (
        '{"retry": {"first": "3s", "max_attempts": 9}, "timeout": "1m", "queue": "slow", "priority": "low", "own": 7}'
    )
    declared = load(tmp_path, SYTQ_TYPES__ONE=section).get("one")
    assert (declared.retry.first, declared.retry.max_attempts, declared.retry.factor) == (3.0, 9, 2.0)
    assert (declared.timeout, declared.queue, declared.priority) == (60.0, "slow", "low")
    assert declared.config == {"own": 7}


OWN = """
from pydantic import BaseModel, ConfigDict, SecretStr
from sytq import task

class Nothing(BaseModel):
    pass

class Own(BaseModel):
    model_config = ConfigDict(extra="forbid")
    port: int{default}
    password: SecretStr | None = None

@task("own", payload=Nothing, config=Own)
def own(ctx, payload):
    return None
"""


def test_a_type_gets_its_own_configuration_as_its_model(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(default=" = 25"))
    assert load(tmp_path).get("own").config.port == 25
    # A password is text even if it looks like a number.
    section = {"SYTQ_TYPES__OWN__PORT": "26", "SYTQ_TYPES__OWN__PASSWORD": "1e5", "SYTQ_TYPES__OWN__TIMEOUT": "3s"}
    declared = load(tmp_path, **section).get("own")
    assert (declared.config.port, declared.config.password.get_secret_value()) == (26, "1e5")
    assert declared.timeout == 3.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"SYTQ_TYPES__OWN__PORT": "many"},
            r"types\.own\.port: value 'many' is not valid: not a whole number; valid: a whole number "
            r"\(env SYTQ_TYPES__OWN__PORT\)",
        ),
        ({"SYTQ_TYPES__OWN__PROT": "1"}, r"types\.own\.prot: no such setting; did you mean types\.own\.port\?"),
        ({"SYTQ_TYPES__OWN__PASSWORD": "hush", "SYTQ_TYPES__OWN__PORT": "x"}, r"^(?!.*hush)"),
        ({"SYTQ_TYPES__OWN__TIMEOUT": "1s"}, r"types\.own\.port: missing; valid: a whole number"),
    ],
)
def test_a_configuration_key_its_model_refuses_stops_the_start(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    (tmp_path / "own.py").write_text(OWN.format(default=""))
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, **settings)


def test_a_type_with_a_policy_key_in_its_config_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(default=" = 25").replace("port: int", "timeout: int"))
    (found,) = load(tmp_path).quarantined
    assert found.error == "ValueError: task type 'own': its config cannot have 'timeout', which is a key of the policy"


def test_a_type_without_a_required_key_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(default=""))
    registry = load(tmp_path)
    assert "own" not in registry
    assert [found.error for found in registry.quarantined] == [
        "ConfigError: types.own.port: missing; valid: a whole number"
    ]


def test_a_duplicate_type_name_stops_the_start_and_names_both(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(TYPE.format(name="webhook"))
    with pytest.raises(DuplicatePlugin) as error:
        load(tmp_path)
    assert str(tmp_path / "one.py") in str(error.value)
    assert "webhook/__init__.py" in str(error.value)


def test_a_broken_file_is_quarantined_and_other_types_load(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_this_name")
    (tmp_path / "good.py").write_text(TYPE.format(name="good"))
    registry = load(tmp_path)
    assert "good" in registry
    (found,) = registry.quarantined
    assert found.source == str(tmp_path / "bad.py")
    assert "nothing_of_this_name" in found.error


UNUSABLE = """
from sytq import Plugin, task
from sytq.config import Section
from pydantic import BaseModel, ConfigDict

class Odd: pass

class Shop(Section):
    odd: Odd | None = None

class Sections(Section):
    shop: Shop | None = None

plugin = Plugin("shop", settings=Sections)
"""


def test_a_plugin_whose_settings_have_no_schema_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(UNUSABLE)
    (tmp_path / "good.py").write_text(TYPE.format(name="good"))
    registry = load(tmp_path)
    assert "good" in registry
    (found,) = registry.quarantined
    assert found.source == str(tmp_path / "bad.py") and "Odd" in found.error


def test_a_type_whose_config_has_no_schema_is_quarantined_even_if_given(tmp_path: Path) -> None:
    text = UNUSABLE.replace('plugin = Plugin("shop", settings=Sections)', "")
    text += TYPE.format(name="bad").replace('timeout="10s"', 'timeout="10s", config=Sections')
    (tmp_path / "bad.py").write_text(text)
    registry = load(tmp_path, SYTQ_TYPES__BAD='{"timeout": "1m"}')
    (found,) = registry.quarantined
    assert "bad" not in registry and "Odd" in found.error


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SYTQ_TYPES__NOSUCH": '{"timeout": "1s"}'}, "types.nosuch: no such task type; valid: .*webhook"),
        (
            {"SYTQ_LIMITERS": '{"type:nosuch": {"concurrency": 1}}'},
            "limiters.type:nosuch: no such task type; valid: .*webhook",
        ),
        ({"SYTQ_PLUGINS__PATHS": '["/nowhere/at/all"]'}, "plugins.paths: '/nowhere/at/all' is not a folder"),
    ],
)
def test_an_invalid_configuration_stops_the_start(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, **settings)


def test_only_the_unusable_type_of_a_file_is_quarantined(tmp_path: Path) -> None:
    bad = TYPE.format(name="bad").replace("retry=Backoff(", "priority='top', retry=Backoff(")
    text = "".join([TYPE.format(name="one"), bad, TYPE.format(name="two")])
    (tmp_path / "some.py").write_text(text)
    (tmp_path / "other.py").write_text("from sytq_plugins.webhook import webhook\n" + TYPE.format(name="three"))
    registry = load(tmp_path)
    assert {"one", "two", "three"} <= {declared.name for declared in registry}
    (found,) = registry.quarantined
    assert found.source == str(tmp_path / "some.py")
    assert found.error == (
        "ConfigError: task type 'bad': priority 'top' is not valid; valid: urgent, high, normal, low"
    )


def test_entry_point_types_load_and_broken_ones_are_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, folder = tmp_path / "site", tmp_path / "plugins"
    for made in (site / "shop", site / "shop-1.0.dist-info", folder):
        made.mkdir(parents=True)
    (site / "shop" / "__init__.py").write_text("")
    (site / "shop" / "tasks.py").write_text(TYPE.format(name="shop_one") + TYPE.format(name="shop_two"))
    (site / "shop" / "broken.py").write_text("import nothing_of_this_name\n")
    (site / "shop-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    points = "[sytq.plugins]\nshop = shop.tasks\nshop_more = shop.broken\n"
    (site / "shop-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(site)
    registry = load(folder)
    assert registry.get("shop_one").source == str(site / "shop" / "tasks.py")
    assert {"shop_two", "webhook"} <= {declared.name for declared in registry}
    (found,) = registry.quarantined
    assert found.source == "shop_more (shop.broken)"
    assert "nothing_of_this_name" in found.error


def test_an_unknown_type_is_refused_with_the_valid_types(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"valid: .*cleanup, .*llm"):
        load(tmp_path).get("nosuch")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"version": 0}, "version 0 is not valid; valid: a whole number from 1"),
        ({"version": "2"}, "version '2' is not valid"),
        ({"upgrade": lambda payload, version: payload}, "valid: a version from 2"),
    ],
)
def test_an_invalid_payload_version_is_refused_at_declaration(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task("one", payload=BaseModel, **wrong)


def test_a_second_type_with_the_same_role_is_refused() -> None:
    registry = Registry(config.load(environ={}, plugins=False))
    with pytest.raises(InvalidInput, match="no task type with the role 'operation' is installed"):
        registry.of_role("operation")
    first, second = (
        task(name, payload=BaseModel, role="operation")(lambda ctx, payload: None) for name in ("one", "two")
    )
    registry.add(first)
    assert registry.of_role("operation").name == "one"
    with pytest.raises(DuplicatePlugin, match="'one' and 'two' both have the role 'operation'"):
        registry.add(second)
    assert "two" not in registry
