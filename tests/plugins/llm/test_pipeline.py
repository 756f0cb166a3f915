"""A pipeline of nodes: their prompts, the row during the calls, and answers that must be JSON.

Prompts and schemas do not depend on the database: their tests take SQLite alone.
"""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from sytq_plugins.llm.node import Node
from sytq_plugins.llm.spend import SpendRow

from sytq.errors import Fail, Retry
from tests.plugins.llm.desk import Desk
from tests.provider import Stage, answers, refuses

PAGE = (Path(__file__).parents[3] / "docs" / "llm.md").read_text()
PRICE = {"type": "object", "required": ["price"], "properties": {"price": {"type": "number"}}}
THREE = [
    {"name": "facts", "prompt": "Facts of: {{ row.user_message }}", "system": "{{ row.sys_message }}"},
    {"name": "price", "prompt": "Price of {{ outputs.facts }}", "model": "thinker", "json_schema": PRICE},
    {"name": "report", "prompt": "Tell {{ outputs.facts }} at {{ outputs.price.price }}", "max_tokens": 9},
]
ANSWERS = (answers("an old house"), answers('```json\n{"price": 420.5}\n```'), answers("worth 420"))


def configure(desk: Desk, nodes: list[dict[str, Any]], **more: str) -> None:
    tables = '{"valuation_records": {"pipeline": "p"}}'
    desk.configure(LLM__PIPELINES=json.dumps({"p": nodes}), LLM__TABLES=tables, **more)


def said(desk: Desk, call: int = -1) -> str:
    return str(desk.provider.calls[call].body["messages"][-1]["content"])


def test_each_node_gets_the_row_and_the_previous_outputs(desk: Desk) -> None:
    configure(desk, THREE)
    desk.provider.play(*ANSWERS)
    desk.add_row(user_message="12 Elm St", sys_message="You are a valuer.")
    task = desk.submit()
    result = desk.run(task)
    bodies = [call.body for call in desk.provider.calls]
    assert bodies[0]["messages"] == [
        {"role": "system", "content": "You are a valuer."},
        {"role": "user", "content": "Facts of: 12 Elm St"},
    ]
    assert [said(desk, n) for n in (1, 2)] == ["Price of an old house", "Tell an old house at 420.5"]
    assert [(body["model"], body["max_tokens"]) for body in bodies] == [
        ("valuer-1", 2000), ("thinker", 2000), ("valuer-1", 9),
    ]  # fmt: skip
    row = desk.row()
    assert (row["report"], row["status"], row["progress"], row["current_task_node"]) == (
        "worth 420",
        "completed",
        "3/3",
        3,
    )
    assert (result["report"], len(result["cost"])) == ("worth 420", 3)
    steps = desk.steps(task)
    for name, text in (("node-0", "an old house"), ("node-2", "worth 420")):
        kept = json.loads(steps[name].value or "")
        assert (kept["content"], kept["provider"], kept["usage"]["prompt_tokens"]) == (text, "scripted", 21)


def test_row_shows_the_current_node_during_each_call(desk: Desk) -> None:
    configure(desk, THREE)
    seen: list[tuple[Any, ...]] = []

    def looking(answer: Any) -> Any:
        async def scene(stage: Stage) -> None:
            row = desk.row()
            seen.append((row["status"], row["progress"], row["current_task_node"], row["progress_info"]))
            await answer(stage)

        return scene

    desk.provider.play(*(looking(answer) for answer in ANSWERS))
    desk.add_row()
    desk.run(desk.submit())
    assert seen == [
        ("processing", "0/3", 0, "node 1 of 3 (facts): waiting for the answer"),
        ("processing", "1/3", 1, "node 2 of 3 (price): waiting for the answer"),
        ("processing", "2/3", 2, "node 3 of 3 (report): waiting for the answer"),
    ]


def test_retry_repeats_only_the_failed_node(desk: Desk) -> None:
    configure(desk, THREE)
    desk.provider.play(ANSWERS[0], refuses(500), *ANSWERS[1:])
    desk.add_row()
    task = desk.submit()
    with pytest.raises(Retry):
        desk.run(task)
    row = desk.row()
    assert (row["progress"], row["current_task_node"], row["failed_times"]) == ("1/3", 1, 1)
    desk.run(task, 2)
    assert [said(desk, n).split()[0] for n in range(4)] == ["Facts", "Price", "Price", "Tell"]
    assert desk.row()["progress"] == "3/3"


def test_answer_violating_the_schema_is_requested_again_with_the_error(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    configure(desk, [THREE[1] | {"prompt": "Price?"}])
    desk.provider.play(answers("About 420."), answers('{"price": "420"}'), answers('{"price": 420}'))
    desk.add_row()
    desk.run(desk.submit())
    roles = [message["role"] for message in desk.provider.calls[2].body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert desk.provider.calls[1].body["messages"][1]["content"] == "About 420."
    assert "the answer is not JSON" in said(desk, 1)
    assert "$.price is not as the schema's 'type' wants it" in said(desk, 2)
    assert desk.row()["report"] == '{"price": 420}'
    assert outcomes(desk) == ["schema", "schema", "ok"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_schema_retries_are_limited_and_every_call_is_recorded(sqlite_desk: Desk, retries: int) -> None:
    desk = sqlite_desk
    configure(desk, [THREE[1] | {"prompt": "Price?", "schema_retries": retries}])
    desk.provider.play(answers("About 420."))
    desk.add_row()
    with pytest.raises(Fail, match=r"the answer is not JSON \[schema\]"):
        desk.run(desk.submit())
    assert len(desk.provider.calls) == retries + 1
    assert outcomes(desk) == ["schema"] * (retries + 1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"price": NaN}', "not JSON"),
        ('{"price": true}', r"\$\.price"),
        ("{}", "'required'"),
    ],
)
def test_schema_error_names_the_violation(sqlite_desk: Desk, answer: str, why: str) -> None:
    desk = sqlite_desk
    configure(desk, [THREE[1] | {"prompt": "Price?", "schema_retries": 0}])
    desk.provider.play(answers(answer))
    desk.add_row()
    with pytest.raises(Fail, match=why):
        desk.run(desk.submit())


def test_schema_reference_to_a_url_is_never_fetched(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    configure(desk, [{"name": "n", "prompt": "p", "json_schema": {"$ref": f"{desk.provider.base_url}/schema"}}])
    desk.provider.play(answers("{}"))
    desk.add_row()
    with pytest.raises(Fail, match=r"json_schema refers to 'http.*', which is not in it"):
        desk.run(desk.submit())
    assert len(desk.provider.calls) == 1


def test_pipeline_of_the_page_runs_as_printed(sqlite_desk: Desk) -> None:
    (text,) = re.findall(r"^    llm:\n      pipelines:\n(?:^    .*\n)+", PAGE, re.MULTILINE)
    printed = yaml.safe_load(text)["llm"]
    desk = sqlite_desk
    desk.configure(LLM__PIPELINES=json.dumps(printed["pipelines"]), LLM__TABLES=json.dumps(printed["tables"]))
    desk.sql("CREATE TABLE orders AS SELECT *, 'Bath' AS city FROM valuation_records")
    for statement in re.findall(r"`(CREATE INDEX [^`]+)`", PAGE):
        desk.sql(statement)
    desk.add_row(table="orders", city="Bath")
    desk.provider.play(answers('{"area": 120}'), answers("worth 420"))
    assert desk.run(desk.submit(table="orders"))["report"] == "worth 420"
    assert [said(desk, n) for n in (0, 1)] == [
        "List the facts in: What is it worth?",
        "Value a house of 120 square metres in Bath.",
    ]


def test_templates_see_all_columns_and_render_null_as_empty(desk: Desk) -> None:
    desk.sql("ALTER TABLE valuation_records ADD COLUMN area INT")
    configure(desk, [{"name": "n", "prompt": "{{ row.area }} m2{{ row.sys_message }}"}])
    desk.add_row(area=120, user_message=None)
    desk.run(desk.submit())
    assert said(desk) == "120 m2"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ row.nothing }}", "has no attribute 'nothing'"),
        ("{{ outputs.later }}", "has no attribute 'later'"),
        ("{{ ''.__class__.__mro__ }}", "cannot be filled"),
        ("{{ 'x' * 1000000000 }}", "cannot be filled"),
        ("{% for i in range(90000) %}{{ row.user_message }}{% endfor %}", "longer than 4194304 bytes"),
        ("{{ row.sys_message }} ", "the prompt is blank"),
    ],
)
def test_template_error_fails_the_task_without_a_call(sqlite_desk: Desk, template: str, why: str) -> None:
    desk = sqlite_desk
    configure(desk, [{"name": "n", "prompt": template}])
    desk.add_row(user_message="secret words of a caller " * 20)
    with pytest.raises(Fail, match=why) as caught:
        desk.run(desk.submit())
    assert "secret" not in str(caught.value)
    assert desk.provider.calls == []


def test_huge_constant_of_a_template_is_not_built_by_its_validation() -> None:
    tracemalloc.start()
    try:
        Node(name="n", prompt="{{ 'x' * 100000000 }}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 << 20


def test_each_node_can_set_its_provider_and_fallback(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    other = json.dumps({"base_url": desk.provider.base_url, "model": "other-1"})
    nodes = [
        {"name": "a", "prompt": "a", "provider": "other", "fallback": ["scripted"]},
        {"name": "b", "prompt": "b", "fallback": []},
    ]
    more = {"LLM__PROVIDER": "scripted", "LLM__FALLBACK": '["other"]', "PROVIDERS__OTHER": other}
    configure(desk, nodes, **more)
    desk.provider.play(refuses(500), answers(), refuses(500))
    desk.add_row()
    with pytest.raises(Retry):
        desk.run(desk.submit())
    assert [call.body["model"] for call in desk.provider.calls] == ["other-1", "valuer-1", "valuer-1"]


def test_prompt_of_one_mebibyte_arrives_complete(desk: Desk) -> None:
    if desk.is_mysql:
        desk.sql("ALTER TABLE valuation_records MODIFY user_message LONGTEXT")
    text = "价🏠" * 150_000
    desk.add_row(user_message=text)
    desk.run(desk.submit())
    assert said(desk) == text


def outcomes(desk: Desk) -> list[str]:
    with desk.runtime.database.connection_context():
        return [row.outcome for row in SpendRow.select().order_by(SpendRow.token, SpendRow.number)]
