"""Dependencies on SQLite and MySQL: a dependent is released once, by the end of its last dependency."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sytq.errors import InvalidInput
from sytq.ids import new_id
from sytq.ledger import deletion, dependencies
from sytq.ledger.database import open_database, read, transact
from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Task, Wait
from sytq.ledger.values import utcnow
from sytq.service.recording import Recording
from sytq.service.tree import outcomes, tree
from sytq.states import UNFINISHED
from tests.tables import make_tables


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    database = open_database(database_url)
    make_tables(database)
    yield Ledger(database)
    database.close_all()


def insert(ledger: Ledger, *after: str, **fields: object) -> str:
    (task_id,) = insert_all(ledger, 1, after, **fields)
    return task_id


def insert_all(ledger: Ledger, number: int, after: tuple[str, ...] = (), **fields: object) -> list[str]:
    common = {"type": "t", "queue": "q", "priority": "high", "payload": "{}", "after": after} | fields
    tasks = [NewTask(**{"id": new_id()} | common) for _ in range(number)]  # type: ignore[arg-type]
    ledger.accept(tasks)
    return [task.id for task in tasks]


def end(ledger: Ledger, *ids: str, state: str = "succeeded", token: int = 1, result: str = "null") -> list[str]:
    """Record these ends and return the tasks they release."""
    events = [Event(i, state, token, 1, finished_at=utcnow(), result=result, error=None) for i in ids]
    return [task.id for task in recording(ledger).write(events)]


def missed_ends(ledger: Ledger, *page: Any) -> tuple[list[str], tuple[str, str] | None]:
    return read(ledger.database, lambda: dependencies.missed_ends(*page))


def recording(ledger: Ledger) -> Recording:
    """Recording on a ledger whose tasks have no callbacks and no on_dead."""
    return Recording({}, ledger, None)  # type: ignore[arg-type]


def row(ledger: Ledger, task_id: str) -> Task:
    found = ledger.get(task_id)
    assert found is not None
    return found


def waiting(ledger: Ledger, task_id: str) -> bool:
    found = row(ledger, task_id)
    return (found.state, found.held is not None) == ("scheduled", True)


def test_a_dependent_is_released_by_the_last_end_only(ledger: Ledger) -> None:
    children = insert_all(ledger, 3)
    last = insert(ledger, *children)
    assert waiting(ledger, last)
    assert end(ledger, children[2]) == []
    assert end(ledger, children[0]) == []
    assert waiting(ledger, last)
    assert end(ledger, children[1]) == [last]
    assert not waiting(ledger, last)
    for child in children:  # an event that is written again
        assert end(ledger, child) == []


def test_the_reconciler_does_not_dispatch_a_waiting_dependent(ledger: Ledger) -> None:
    child = insert(ledger)
    last = insert(ledger, child)
    since = utcnow() - dt.timedelta(minutes=1)

    def may_run() -> list[str]:
        unfinished = [task.id for task in ledger.unfinished(None, 10)]
        assert {task_id for task_id, _ in ledger.newcomers(since, "", 10)} == set(unfinished)
        return unfinished

    assert may_run() == [child]
    end(ledger, child)
    assert may_run() == [last]
    assert row(ledger, last).scheduled_at is not None  # its age counts from there


def test_a_released_task_keeps_its_own_later_run_time(ledger: Ledger) -> None:
    later = dt.datetime(2040, 1, 2, 3, 4, 5)
    child = insert(ledger)
    last = insert(ledger, child, run_at=later)
    assert end(ledger, child) == [last]
    assert row(ledger, last).scheduled_at == later


@pytest.mark.parametrize("state", ["dead", "cancelled"])
def test_a_failure_cancels_dependents_at_once_with_the_reason(ledger: Ledger, state: str) -> None:
    children = insert_all(ledger, 3, type="part")
    last = insert(ledger, *children)
    after_that = insert(ledger, last, type="third")
    dependent = insert(ledger, after_that, on_failure="run")
    assert end(ledger, children[1], state=state) == [dependent]
    assert (row(ledger, last).state, row(ledger, last).error) == (
        "cancelled",
        f"not run: part {children[1]} is {state}",
    )
    assert row(ledger, after_that).error == f"not run: t {last} is cancelled"
    assert row(ledger, last).finished_at is not None
    assert end(ledger, children[0], children[2]) == []
    assert row(ledger, last).state == "cancelled"


def test_on_failure_run_dependents_run_after_failures(ledger: Ledger) -> None:
    children = insert_all(ledger, 3)
    last = insert(ledger, *children, on_failure="run")
    assert end(ledger, children[0], state="dead") == []
    assert end(ledger, children[1], state="cancelled") == []
    assert end(ledger, children[2], result='{"n": 3}') == [last]
    found = read(ledger.database, lambda: outcomes(last))
    assert [(o.id, o.state, o.ok) for o in found] == [
        (children[0], "dead", False),
        (children[1], "cancelled", False),
        (children[2], "succeeded", True),
    ]
    assert found[2].result == {"n": 3}


def test_ends_recorded_together_release_a_dependent_once(ledger: Ledger) -> None:
    children = insert_all(ledger, 500)
    last = insert(ledger, *children)
    assert end(ledger, *children) == [last]


def test_concurrent_last_ends_release_a_dependent_once(ledger: Ledger) -> None:
    for _ in range(10):
        first, second = insert_all(ledger, 2)
        last = insert(ledger, first, second)
        released: list[str] = []
        start = threading.Barrier(2)

        def finish(child: str, released: list[str] = released, start: threading.Barrier = start) -> None:
            start.wait()
            released.extend(end(ledger, child))

        threads = [threading.Thread(target=finish, args=(child,)) for child in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert released == [last]


def test_an_end_recorded_before_its_dependency_is_found_as_missed(ledger: Ledger) -> None:
    early, late = insert_all(ledger, 2)
    end(ledger, early)
    last = insert(ledger, early, late)
    assert waiting(ledger, last)
    end(ledger, late)
    assert waiting(ledger, last)  # only the later end was recorded
    ended, position = missed_ends(ledger, ("", ""), 10)
    assert (ended, position) == ([early], None)
    assert [task.id for task in recording(ledger).write((), ended=ended)] == [last]
    assert missed_ends(ledger, ("", ""), 10) == ([], None)


def test_missed_ends_are_found_page_by_page(ledger: Ledger) -> None:
    ended, going_on = insert_all(ledger, 12), insert_all(ledger, 12)
    end(ledger, *ended)
    for one, other in zip(ended, going_on, strict=True):
        insert(ledger, one, other)
    found: list[str] = []
    position: tuple[str, str] | None = ("", "")
    pages = 0
    while position:
        page, position = missed_ends(ledger, position, 5)
        found += page
        pages += 1
    assert (sorted(found), pages) == (sorted(ended), 5)


def test_unfinished_ids_release_nothing(ledger: Ledger) -> None:
    child = insert(ledger)
    last = insert(ledger, child)
    assert recording(ledger).write((), ended=[child]) == []
    assert waiting(ledger, last)


def test_a_task_that_another_program_deleted_counts_as_failed(ledger: Ledger) -> None:
    child = insert(ledger)
    careful, careless = insert(ledger, child), insert(ledger, child, on_failure="run")
    transact(ledger.database, Task.delete().where(Task.id == child).execute)
    ended, _ = missed_ends(ledger, ("", ""), 10)
    assert [task.id for task in recording(ledger).write((), ended=ended)] == [careless]
    assert row(ledger, careful).error == f"not run: task {child} was deleted"
    assert [o.state for o in read(ledger.database, lambda: outcomes(careless))] == ["deleted"]


def test_an_unknown_state_counts_as_failed(ledger: Ledger) -> None:
    child = insert(ledger)
    careful, careless = insert(ledger, child), insert(ledger, child, on_failure="run")
    transact(ledger.database, Task.update(state="failed").where(Task.id == child).execute)
    ended, _ = missed_ends(ledger, ("", ""), 10)
    assert [task.id for task in recording(ledger).write((), ended=ended)] == [careless]
    assert row(ledger, careful).error == f"not run: t {child} is failed"
    assert missed_ends(ledger, ("", ""), 10) == ([], None)  # else it would be looked up again at once, forever


def test_a_dependency_on_an_unknown_task_is_refused(ledger: Ledger) -> None:
    child = insert(ledger)
    with pytest.raises(InvalidInput, match="after: there is no task 'nosuch'"):
        insert(ledger, child, "nosuch")
    assert read(ledger.database, Task.select().count) == 1  # all or nothing
    assert read(ledger.database, Wait.select().count) == 0


def test_dependents_beyond_one_transaction_are_released_next(ledger: Ledger) -> None:
    child = insert(ledger)
    many = insert_all(ledger, dependencies.MAX_RELEASED + 3, (child,))
    assert len(end(ledger, child)) == dependencies.MAX_RELEASED
    ended, _ = missed_ends(ledger, ("", ""), 500)
    assert len(recording(ledger).write((), ended=ended)) == 3
    assert not any(waiting(ledger, task_id) for task_id in many)


def test_an_ordering_key_does_not_wait_for_a_dependent(ledger: Ledger) -> None:
    child = insert(ledger, ordering_key="k")
    last = insert(ledger, child, ordering_key="k")
    transact(ledger.database, Task.update(created_at=dt.datetime(2020, 1, 1)).where(Task.id == last).execute)
    assert ledger.predecessors(child) == []


def test_existing_and_later_dependents_wait_for_an_extension(ledger: Ledger) -> None:
    child, inner, innermost = insert_all(ledger, 3)
    before = insert(ledger, child)
    transact(ledger.database, lambda: dependencies.extend(ledger.database, child, inner))
    transact(ledger.database, lambda: dependencies.extend(ledger.database, inner, innermost))
    afterwards = insert(ledger, child)
    assert end(ledger, child) == []
    assert end(ledger, inner) == []
    assert sorted(end(ledger, innermost)) == sorted([before, afterwards])
    for last in (before, afterwards):
        found = read(ledger.database, lambda last=last: outcomes(last))  # type: ignore[misc]
        assert [outcome.id for outcome in found] == [child, inner, innermost]
    assert read(ledger.database, lambda: outcomes(child)) == []


def test_circular_extensions_do_not_block_dependents_forever(ledger: Ledger) -> None:
    one, other = insert_all(ledger, 2)
    last = insert(ledger, one)
    for task_id, also in ((one, other), (other, one), (one, last)):  # possible with unique keys of existing tasks
        transact(ledger.database, lambda t=task_id, a=also: dependencies.extend(ledger.database, t, a))  # type: ignore[misc]
    late = insert(ledger, one, other)
    end(ledger, one)
    assert end(ledger, other) == [last]
    assert end(ledger, last) == [late]  # which waits for all extensions
    assert [o.id for o in read(ledger.database, lambda: outcomes(late))] == [one, last, other]


def made(ledger: Ledger, parent: str, *after: str) -> str:
    """What `ctx.enqueue(..., after=after, joins=True)` does in an attempt of the parent."""

    def work() -> str:
        task = NewTask(id=new_id(), type="t", queue="q", priority="high", payload="{}", parent=parent, after=after)
        ledger.insert([task])
        dependencies.extend(ledger.database, parent, task.id)
        return task.id

    return transact(ledger.database, work)


def test_a_chain_that_extends_its_parent_runs_in_order_first(ledger: Ledger) -> None:
    parent = insert(ledger)
    last = insert(ledger, parent)
    first = made(ledger, parent, parent)
    second = made(ledger, parent, first)
    assert end(ledger, parent) == [first]
    assert end(ledger, first) == [second]
    assert end(ledger, second) == [last]
    assert [o.id for o in read(ledger.database, lambda: outcomes(last))] == [parent, first, second]


def test_two_extensions_after_their_parent_run_in_order(ledger: Ledger) -> None:
    parent = insert(ledger)
    last = insert(ledger, parent)
    first = made(ledger, parent, parent)
    second = made(ledger, parent, parent)  # the first extends the parent, so the second runs after it
    assert end(ledger, parent) == [first]
    assert end(ledger, first) == [second]
    assert end(ledger, second) == [last]


def test_a_task_accepted_twice_does_not_wait_for_its_dependents(ledger: Ledger) -> None:
    outer = insert(ledger)
    again = NewTask(id=new_id(), type="t", queue="q", priority="high", payload="{}", after=(outer,))
    ledger.accept([again])
    last = made(ledger, outer, again.id)
    ledger.accept([again])
    assert end(ledger, outer) == [again.id]
    assert end(ledger, again.id) == [last]


def test_dependents_wait_for_nested_extensions(ledger: Ledger) -> None:
    parent, existing, inner = insert_all(ledger, 3)
    last = insert(ledger, parent)
    for task_id, also in ((existing, inner), (parent, existing)):
        transact(ledger.database, lambda t=task_id, a=also: dependencies.extend(ledger.database, t, a))  # type: ignore[misc]
    assert end(ledger, parent, existing) == []
    assert end(ledger, inner) == [last]


@pytest.mark.parametrize("first", ["the one that waits", "the one that joins"])
def test_a_dependency_added_during_an_extension_includes_it(ledger: Ledger, first: str) -> None:
    outer, inner, innermost = insert_all(ledger, 3)
    transact(ledger.database, lambda: dependencies.extend(ledger.database, outer, inner))
    last = NewTask(id=new_id(), type="t", queue="q", priority="high", payload="{}", after=(outer,))

    def wait() -> None:
        ledger.accept([last])

    def join() -> None:
        ledger.fenced(inner, 1, lambda: dependencies.extend(ledger.database, inner, innermost))

    one, other = (wait, join) if first == "the one that waits" else (join, wait)
    thread = threading.Thread(target=other)

    def both() -> None:
        one()
        thread.start()
        thread.join(0.5)  # it waits for this transaction or does not see it

    transact(ledger.database, both)
    thread.join()
    assert end(ledger, outer, inner) == []
    assert end(ledger, innermost) == [last.id]


def test_every_task_of_a_random_workflow_ends(ledger: Ledger) -> None:
    for seed in range(15):
        chance = random.Random(seed)
        ids = insert_all(ledger, 2)
        ids.append(insert(ledger, *ids))
        while True:
            rows = ledger.some(ids)
            open_ = [task_id for task_id in ids if rows[task_id].state in UNFINISHED]
            if able := [task_id for task_id in open_ if rows[task_id].held is None]:
                run(ledger, chance.choice(able), ids, chance)
            elif over := missed_ends(ledger, ("", ""), 500)[0]:
                recording(ledger).write((), ended=over)
            else:
                break
        assert open_ == [], f"with the seed {seed}"


def run(ledger: Ledger, task_id: str, ids: list[str], chance: random.Random) -> None:
    """Let a task create others, which it adds to `ids`, and end."""
    for _ in range(chance.randrange(4) if len(ids) < 16 else 0):
        near = list(dict.fromkeys((task_id, *ids[-3:])))
        after = chance.sample(near, chance.randrange(len(near)))
        what = chance.random()
        if what < 0.7:
            ids.append(made(ledger, task_id, *after))
        elif what < 0.85:
            ids.append(insert(ledger, *after))
        else:  # a unique key that another task has
            also = chance.choice(ids)
            transact(ledger.database, lambda also=also: dependencies.extend(ledger.database, task_id, also))  # type: ignore[misc]
    end(ledger, task_id, state="dead" if chance.random() < 0.1 else "succeeded")


def test_a_thousand_children_cost_a_few_statements_each(ledger: Ledger) -> None:
    children = insert_all(ledger, 1000)
    last = insert(ledger, *children)
    statements: list[str] = []
    execute = ledger.database.execute_sql

    def counted(sql: str, *args: object, **options: object) -> object:
        statements.append(sql)
        return execute(sql, *args, **options)

    ledger.database.execute_sql = counted
    assert end(ledger, *children[:500]) == []
    assert end(ledger, *children[500:]) == [last]
    read(ledger.database, lambda: outcomes(last))
    assert len(statements) < 50
    statements.clear()
    transact(ledger.database, lambda: list(Task.select().where(deletion.needed())))
    assert len(statements) == 1


def test_outcomes_stay_needed_until_parents_and_dependents_end(ledger: Ledger) -> None:
    parent = insert(ledger)
    child, other = insert(ledger, parent=parent), insert(ledger)
    last = insert(ledger, other)

    def needed() -> set[str]:
        query = Task.select(Task.id).where(Task.state.not_in(UNFINISHED), deletion.needed())
        return read(ledger.database, lambda: {task.id for task in query})

    end(ledger, child, other)
    assert needed() == {child, other}
    end(ledger, parent, last)
    assert needed() == set()


def test_a_tree_lists_parents_first_and_says_if_truncated(ledger: Ledger) -> None:
    root = insert(ledger, type="root")
    first, second = (insert(ledger, parent=root, type=name) for name in ("first", "second"))
    below = insert_all(ledger, 3, parent=first)
    last = insert(ledger, first, second, parent=root, type="last")
    end(ledger, below[0])

    def shown(limit: int) -> tuple[list[tuple[int, str]], bool]:
        found = read(ledger.database, lambda: tree(row(ledger, root), limit))
        return [(node["depth"], node["type"]) for node in found["tasks"]], found["truncated"]

    whole = [(0, "root"), (1, "first"), (2, "t"), (2, "t"), (2, "t"), (1, "second"), (1, "last")]
    assert shown(100) == (whole, False)
    assert shown(7) == (whole, False)
    assert shown(5) == ([(0, "root"), (1, "first"), (2, "t"), (1, "second"), (1, "last")], True)
    nodes = {node["id"]: node for node in read(ledger.database, lambda: tree(row(ledger, root), 5))["tasks"]}
    assert nodes[first]["children"] == {"succeeded": 1, "queued": 2}
    assert nodes[last]["after"] == {"tasks": 2, "ended": 0, "first": [first, second]}
    assert (nodes[last]["held"], nodes[first]["held"]) == (True, False)


def test_a_tree_ends_where_a_row_is_its_own_parent(ledger: Ledger) -> None:
    root = insert(ledger)
    transact(ledger.database, Task.update(parent=root).where(Task.id == root).execute)
    assert len(read(ledger.database, lambda: tree(row(ledger, root), 10))["tasks"]) == 1
