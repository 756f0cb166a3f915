"""Polls share an answer where its readers would be shown the same, and nobody is shown less than before."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from sytq.api.dashboard import polls
from sytq.api.dashboard.polls import Polls
from tests.api.dashboard.browser import Browser, browse_as, log_in
from tests.api.dashboard.rows import inserted
from tests.installation import Installation


class Made:
    """Answers with the number of answers so far, or fails."""

    def __init__(self) -> None:
        self.number, self.fails = 0, False

    async def __call__(self) -> str:
        self.number += 1
        number = self.number
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError
        return str(number)


def test_polls_at_once_and_soon_after_share_one_answer() -> None:
    async def run() -> None:
        shared, make = Polls(), Made()
        assert await asyncio.gather(*(shared.shared("a", make) for _ in range(10))) == ["1"] * 10
        assert await shared.shared("a", make) == "1"
        assert await shared.shared("b", make) == "2"
        with patch.object(polls, "_SERVES", 0.0):
            assert await shared.shared("a", make) == "3"

    asyncio.run(run())


def test_answer_begun_before_a_change_serves_no_poll_after_it() -> None:
    async def run() -> None:
        shared, make = Polls(), Made()
        before = asyncio.create_task(shared.shared("a", make))
        await asyncio.sleep(0)
        shared.forget()
        assert await shared.shared("a", make) == "2"
        assert await before == "1"
        assert await shared.shared("a", make) == "2"

    asyncio.run(run())


def test_failed_answer_is_told_to_all_and_not_kept() -> None:
    async def run() -> None:
        shared, make = Polls(), Made()
        make.fails = True
        found = await asyncio.gather(*(shared.shared("a", make) for _ in range(2)), return_exceptions=True)
        assert [type(one) for one in found] == [ConnectionError] * 2 and make.number == 1
        make.fails = False
        assert await shared.shared("a", make) == "2"

    asyncio.run(run())


def test_client_that_goes_leaves_the_answer_to_the_others() -> None:
    async def run() -> None:
        shared, make = Polls(), Made()
        gone, stays = (asyncio.create_task(shared.shared("a", make)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == "1"

    asyncio.run(run())


def test_oldest_answers_go_when_there_are_too_many() -> None:
    async def run() -> None:
        shared, make = Polls(), Made()
        for key in range(polls._MAX_KEPT + 1):
            await shared.shared(key, make)
        assert len(shared._made) == polls._MAX_KEPT
        assert await shared.shared(polls._MAX_KEPT, make) == str(polls._MAX_KEPT + 1)
        assert await shared.shared(0, make) == str(polls._MAX_KEPT + 2)

    asyncio.run(run())


def poll(browser: Browser, path: str) -> str:
    reply = browser.request("GET", f"/dashboard{path}", HX_Request="true")
    assert reply.status == 200
    return reply.body.decode()


def test_answer_is_not_older_than_the_page_that_polls() -> None:
    assert polls._SERVES < polls.INTERVAL


def test_shared_answer_has_each_readers_own_form_token(guarded: Installation) -> None:
    first, second = (log_in(guarded, "read", owner="same") for _ in range(2))
    query = "/tasks?q=type:token"
    tokens = {browser: browser.get(query).form("/tasks/views").fields["csrf"] for browser in (first, second)}
    assert len(set(tokens.values())) == 2
    for browser, token in tokens.items():
        assert f'value="{token}"' in poll(browser, query)


def test_what_one_changes_is_in_the_next_page_and_poll(guarded: Installation) -> None:
    admin, other = (log_in(guarded) for _ in range(2))
    assert all("Paused for polls" not in poll(browser, "/types") for browser in (admin, other))
    admin.post("/types/default/pause", why="Paused for polls")
    assert "Paused for polls" in admin.get("/types").html
    assert all("Paused for polls" in poll(browser, "/types") for browser in (admin, other))
    admin.post("/types/default/resume")
    assert all("Paused for polls" not in poll(browser, "/types") for browser in (admin, other))


def test_reader_of_fewer_rights_gets_no_answer_of_more(guarded: Installation) -> None:
    (task,) = inserted(guarded, 1, type="polled", owner="polling")
    readers = log_in(guarded), *(browse_as(guarded, owner, "read") for owner in ("polling", "strange"))
    pages = [poll(browser, "/tasks?q=type:polled") for browser in readers]
    assert [task in html for html in pages] == [True, True, False]
    assert ["checkbox" in html for html in pages] == [True, False, False]
