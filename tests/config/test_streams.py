"""The configuration of external streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sytq.config import load
from sytq.errors import ConfigError
from sytq.runtime import build

OLD = {"APP_ENABLE_REDIS_QUEUE": "true", "APP_TASK_QUEUE_STREAM": "their:queue", "APP_TASK_QUEUE_GROUP": "their_group"}


def test_no_stream_is_read_unless_one_is_configured() -> None:
    assert load(environ={}).streams == []
    assert load(environ=OLD | {"APP_ENABLE_REDIS_QUEUE": "false"}).streams == []


def test_the_old_variables_make_one_stream() -> None:
    (stream,) = load(environ=OLD).streams
    assert (stream.stream, stream.group, stream.type) == ("their:queue", "their_group", "default")
    assert (stream.max_retries, stream.retry_delay, stream.dead_letters) == (3, None, "their:queue:dlq")
    (stream,) = load(environ={"APP_ENABLE_REDIS_QUEUE": "true"}).streams
    assert (stream.stream, stream.group) == ("goodshunter:task:queue", "scheduler_group")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_the_old_file_may_be_json(tmp_path: Path, indent: int | str | None) -> None:
    file = tmp_path / "config.json"
    app = {"enable_redis_queue": True, "task_queue_stream": "their:queue", "task_queue_group": "their_group"}
    file.write_text(json.dumps({"app": app, "streams": [{"stream": "other"}]}, indent=indent))
    settings = load(str(file), environ={})
    assert [(s.stream, s.group) for s in settings.streams] == [
        ("other", "scheduler_group"),
        ("their:queue", "their_group"),
    ]
    changed = load(str(file), environ={"APP_TASK_QUEUE_STREAM": "third"})  # the environment wins over the file
    assert [s.stream for s in changed.streams] == ["other", "third"]


def test_streams_are_given_in_yaml_with_type_template_and_policy(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text(
        """
        app: {enable_redis_queue: true, task_queue_stream: orders}
        streams:
          - stream: orders
            group: ours
            type: llm
            payload: {table_name: valuation_records, id: "{task_id}"}
            max_retries: 5
            retry_delay: 1m30s
            dead_letter: graveyard
        """
    )
    (stream,) = load(str(file), environ={}).streams  # the entry of `streams` wins over `app`
    assert (stream.group, stream.type, stream.max_retries, stream.retry_delay) == ("ours", "llm", 5, 90.0)
    assert stream.payload == {"table_name": "valuation_records", "id": "{task_id}"}
    assert stream.dead_letters == "graveyard"


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ([{}], "streams.0.stream: missing"),
        ([{"stream": "a", "typ": "x"}], "streams.0.typ: no such setting; did you mean streams.0.type?"),
        ([{"stream": "a b"}], "streams.0.stream: value 'a b' is not valid"),
        ([{"stream": "a", "max_retries": -1}], "streams.0.max_retries: value '-1' is not valid: too small"),
        ([{"stream": "a", "retry_delay": "soon"}], "streams.0.retry_delay: value 'soon' is not valid"),
        ([{"stream": "a", "dead_letter": "a"}], "streams.0.dead_letter: value 'a' is not valid: the stream itself"),
        ([{"stream": "a"}, {"stream": "a", "group": "g"}], "'a' is there twice; valid: each stream once"),
    ],
)
def test_invalid_stream_is_refused(streams: list[object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"SYTQ_STREAMS": json.dumps(streams)})
    assert said in str(caught.value)


def test_an_unknown_type_stops_the_start_and_names_the_valid_ones() -> None:
    settings = load(environ={"SYTQ_STREAMS": '[{"stream": "a"}, {"stream": "b", "type": "nosuch"}]'})
    with pytest.raises(
        ConfigError, match=r"^streams\.1\.type: 'nosuch' is not a task type; valid: .*cleanup, .*default"
    ):
        build(settings)
