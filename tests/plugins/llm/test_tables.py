"""Callers' tables that are not as contract A has them: what stands in the way, and what a task says of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sytq_plugins.llm.obstacles import Obstacle, obstacles

from sytq.errors import Fail
from sytq.ledger.database import open_database
from tests.plugins.llm.desk import Desk
from tests.provider import answers
from tests.servers import MySQLServer

TABLE = "valuation_records"


def found(desk: Desk, table: str = TABLE) -> list[Obstacle]:
    settings: Any = desk.runtime.settings
    return obstacles(desk.runtime.database, table, settings.llm.status_labels)


def test_contract_a_table_has_no_obstacle(desk: Desk) -> None:
    assert found(desk) == []


#: What an owner did to the table, the sentence that names it, and whether valuations stop.
_ALTERED = {
    "unsigned id": ("MODIFY id BIGINT UNSIGNED", r"column id of \S+ is bigint.* unsigned: .*prompt form", False),
    "small id": ("MODIFY id INT", r"column id of \S+ is int.*: .*prompt form", False),
    "text id": ("MODIFY id CHAR(36)", r"column id of \S+ is char\(36\): ids of rows are whole numbers", True),
    "uuid": ("MODIFY id BINARY(16)", r"column id of \S+ is binary\(16\): ids of rows are whole", True),
    "extra": ("ADD tenant_id BIGINT NOT NULL", r"column tenant_id of \S+ is NOT NULL without a default: .*503", False),
    "missing": ("DROP report", r"table \S+ lacks report", True),
    "two missing": ("DROP sys_message, DROP updated_at", r"lacks sys_message, updated_at", True),
    "enum": ("MODIFY status ENUM('pending','done')", r"status .* does not take processing, completed, failed of", True),
    "state number": ("MODIFY status TINYINT", r"status of \S+ is tinyint.*: it cannot hold a word", True),
    "short status": ("MODIFY status VARCHAR(8)", r"status .* does not take processing, completed of", True),
    "epoch": ("MODIFY updated_at INT", r"updated_at of \S+ is int.*: it cannot hold the time", True),
    "generated": ("DROP progress, ADD progress TEXT AS (status) VIRTUAL", r"column progress of \S+ is generated", True),
    "latin1": ("MODIFY report TEXT CHARACTER SET latin1", r"columns report of \S+ are latin1: .*emoji", False),
    "utf8mb3": ("CONVERT TO CHARACTER SET utf8mb3", r"user_message, .* are utf8\S*: .*emoji", False),
    "small report": ("MODIFY report VARCHAR(2000)", r"report of \S+ is varchar\(2000\): longer texts", False),
    "no transactions": ("ENGINE=MyISAM", r"has the engine MyISAM", False),
    "no key": ("DROP PRIMARY KEY, ADD KEY (id)", r"id of \S+ has no unique index of its own", False),
}  # fmt: skip


@pytest.mark.parametrize("altered", _ALTERED)
def test_obstacle_names_column_and_table(mysql_desk: Desk, altered: str) -> None:
    change, said, stops = _ALTERED[altered]
    mysql_desk.sql(f"ALTER TABLE {TABLE} {change}")
    (obstacle,) = found(mysql_desk)
    assert re.search(said, obstacle.said), obstacle
    assert obstacle.stops is stops
    assert TABLE in obstacle.said and obstacle.todo


def test_chinese_status_words_need_a_column_that_takes_them(mysql_desk: Desk) -> None:
    mysql_desk.configure(LLM__STATUS_LABELS="zh", LLM__TABLES=f'{{"{TABLE}": {{}}}}')
    for charset, unfit in (
        ("utf8mb3", []),
        ("gbk", []),
        ("latin1", ["待处理, 处理中, 已完成, 失败"]),
        ("ascii", ["待处理"]),
    ):
        mysql_desk.sql(f"ALTER TABLE {TABLE} MODIFY status VARCHAR(50) CHARACTER SET {charset}")
        said = [obstacle.said for obstacle in found(mysql_desk) if obstacle.stops]
        assert len(said) == len(unfit) and all(word in said[0] for word in unfit), charset
    mysql_desk.add_row(status=None)
    with pytest.raises(Fail, match=r"column status of valuation_records cannot store every character"):
        mysql_desk.run(mysql_desk.submit())
    assert mysql_desk.provider.calls == []


def test_views_and_missing_rights_are_obstacles(mysql_desk: Desk, mysql_server: MySQLServer) -> None:
    desk = mysql_desk
    desk.configure(LLM__TABLES='{"nowhere": {}, "summed": {}, "plain": {}, "order": {}}')
    desk.sql(f"CREATE VIEW summed AS SELECT * FROM {TABLE} GROUP BY id")
    desk.sql(f"CREATE VIEW plain AS SELECT * FROM {TABLE}")
    desk.sql(f"CREATE TABLE `order` LIKE {TABLE}")
    assert [obstacle.said for obstacle in found(desk, "nowhere")] == ["table nowhere does not exist"]
    assert "rows cannot be valued: The target table summed" in found(desk, "summed")[0].said
    assert found(desk, "plain") == found(desk, "order") == []

    name = f"u{desk.database_name[-12:]}"
    mysql_server.execute(f"CREATE USER {name}@'%%'")
    mysql_server.execute(f"GRANT SELECT ON `{desk.database_name}`.* TO {name}@'%%'")
    database = open_database(mysql_server.url(desk.database_name).replace("root@", f"{name}@"), pool=1)
    settings: Any = desk.runtime.settings
    valued, form = obstacles(database, TABLE, settings.llm.status_labels)
    assert "rows cannot be valued: UPDATE command denied to user" in valued.said and valued.stops
    assert "the prompt form" in form.said and "INSERT command denied" in form.said and not form.stops
    database.close_all()  # type: ignore[attr-defined]


def test_task_of_a_view_is_valued_or_names_it(mysql_desk: Desk) -> None:
    desk = mysql_desk
    desk.configure(LLM__TABLES='{"summed": {}, "plain": {}, "lost": {}}')
    desk.add_row()
    desk.sql(f"CREATE VIEW summed AS SELECT * FROM {TABLE} GROUP BY id")
    desk.sql(f"CREATE VIEW plain AS SELECT * FROM {TABLE}")
    desk.sql(f"CREATE TABLE base AS SELECT * FROM {TABLE}")
    desk.sql("CREATE VIEW lost AS SELECT * FROM base")
    desk.sql("DROP TABLE base")
    desk.run(desk.submit(1, "plain"))
    assert len(desk.provider.calls) == 1
    with pytest.raises(
        Fail, match=r"table summed refuses the row: The target table summed of the UPDATE is not updatable"
    ):
        desk.run(desk.submit(1, "summed"))
    with pytest.raises(Fail, match=r"table lost refuses the row: .*references invalid table"):
        desk.run(desk.submit(1, "lost"))
    assert len(desk.provider.calls) == 1


def test_obstacles_of_an_sqlite_table_are_named(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.sql(f"ALTER TABLE {TABLE} RENAME COLUMN report TO reports")
    desk.sql(f"ALTER TABLE {TABLE} ADD COLUMN twice TEXT AS (status || status)")
    assert [obstacle.said for obstacle in found(desk)] == [f"table {TABLE} lacks report: its rows cannot be valued"]
    desk.sql(f"ALTER TABLE {TABLE} RENAME COLUMN reports TO report")
    assert found(desk) == []
    desk.sql(f"CREATE TABLE kept AS SELECT *, 1 AS tenant FROM {TABLE}")
    desk.sql(f"DROP TABLE {TABLE}")
    desk.sql(f"CREATE VIEW {TABLE} AS SELECT * FROM kept")
    assert [obstacle.said for obstacle in found(desk)] == [f"{TABLE} is a view: SQLite does not write into one"]


#: What an owner did, what the task says of it, and how many calls were paid until then.
_REFUSALS = {
    "enum": (["MODIFY status ENUM('pending','failed')"], "column status of {t} does not take the value (an ENUM", 0),
    "number": (["MODIFY status TINYINT"], "column status of {t} holds numbers, and a word is written into it", 0),
    "epoch": (["DROP updated_at, ADD updated_at INT"], "column updated_at of {t} does not take the number", 0),
    "check": (["ADD CONSTRAINT known CHECK (status = 'pending')"], "the check constraint known of {t} refuses", 0),
    "generated": (["DROP progress, ADD progress TEXT AS (status) VIRTUAL"], "column progress of {t} is generated", 0),
    "trigger": (["TRIGGER SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'hush'"], "a trigger of {t} refuses the row", 0),
    "audit": (["TRIGGER INSERT INTO audit VALUES (1)"], "a trigger or view of {t} needs the table audit, which", 0),
    "function": (["TRIGGER SET NEW.progress = gone(1)"], "table {t} refuses the row: FUNCTION", 0),
    "division": (["TRIGGER SET NEW.failed_times = 1 / 0"], "table {t} refuses the row: Division by 0", 0),
    "no text": (["MODIFY sys_message BLOB", "UPDATE SET sys_message = X'B5FF'"], "column sys_message holds bytes", 0),
    "no address": (["MODIFY callback_url BLOB", "UPDATE SET callback_url = X'FF'"], "", 1),
    "text id": (["MODIFY id VARCHAR(40)"], "column id of {t} holds no whole numbers, so that 1 may mean several", 0),
    "uuid": (["MODIFY id CHAR(36)"], "column id of {t} holds no whole numbers", 0),
    "null": (["MODIFY failed_times INT NOT NULL", "TRIGGER SET NEW.failed_times = NULL"], "column failed_times of", 0),
    "charset": (["MODIFY report TEXT CHARACTER SET latin1"], "column report of {t} cannot store every character", 1),
    "short": (["MODIFY report VARCHAR(20)"], "column report of {t} is too small for", 1),
    "json": (["MODIFY report JSON"], "the check constraint {t}.report of {t} refuses the row", 1),
    "bytes": (["MODIFY report BLOB, MODIFY user_message BLOB, MODIFY status VARBINARY(20)"], "", 1),
    "unsigned": (["MODIFY id BIGINT UNSIGNED AUTO_INCREMENT, ADD tenant BIGINT NOT NULL DEFAULT 1"], "", 1),
    "no transactions": (["ENGINE=MyISAM"], "", 1),
    "extra": (["ADD COLUMN deleted_at DATETIME NULL, ADD UNIQUE (callback_url)"], "", 1),
}  # fmt: skip


@pytest.mark.parametrize("altered", _REFUSALS)
def test_task_names_what_its_table_refuses(mysql_desk: Desk, altered: str) -> None:
    desk, (changes, said, calls) = mysql_desk, _REFUSALS[altered]
    desk.provider.play(answers("约值 3 000 000 €, 🏠 and more of it"))
    desk.add_row(status=None, user_message="值多少? 🏠")
    for change in changes:
        match change.split(" ", 1):
            case "TRIGGER", body:
                desk.sql(f"CREATE TRIGGER t BEFORE UPDATE ON {TABLE} FOR EACH ROW {body}")
            case "UPDATE", values:
                desk.sql(f"UPDATE {TABLE} {values}")
            case _:
                desk.sql(f"ALTER TABLE {TABLE} {change}")
    task = desk.submit()
    if said:
        with pytest.raises(Fail) as caught:
            desk.run(task)
        assert said.format(t=TABLE) in str(caught.value)
        assert "hush" not in str(caught.value)
    else:
        desk.run(task)
        assert desk.provider.calls[0].body["messages"][-1]["content"] == "值多少? 🏠"
    assert len(desk.provider.calls) == calls
    assert ("node-0" in desk.steps(task)) is bool(calls)  # a paid answer is kept


def test_number_as_prompt_is_asked_as_text(mysql_desk: Desk) -> None:
    desk = mysql_desk
    desk.sql(f"ALTER TABLE {TABLE} MODIFY user_message DECIMAL(8,2), MODIFY callback_url INT")
    desk.add_row(user_message="1234.50", callback_url=7)
    desk.run(desk.submit())
    assert desk.provider.calls[0].body["messages"][-1]["content"] == "1234.50"
    assert "the callback was not sent" in str(desk.row()["failed_info"])
