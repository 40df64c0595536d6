"""The client's mirror: the reply and the changes around it, parts, versions, gaps."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from readstates.schemas.changes import Change
from readstates.schemas.read_state import ReadState
from readstates.schemas.replies import Reply, Totals
from readstates.streams.client import FeedGapError, Mirror
from readstates.streams.client.mirror import WAITING_MAX

USER = 42


def state(channel: int, version: int, last: int = 5) -> ReadState:
    return ReadState(0, channel, last, 0, 0, 0, 0, 0, version, ())


def change(version: int, *states: ReadState, **more: Any) -> Change:
    given: dict[str, Any] = {
        "deleted": [],
        "all_deleted": False,
        "totals": Totals(len(states), 0, version),
    } | more
    return Change(USER, version, list(states), **given)


class Feed:
    """A feed that hands out what the test put there; an exception is raised."""

    def __init__(self, is_away: bool) -> None:
        self.items: deque[Change | Exception] = deque()
        self.closed, self._is_away = False, is_away

    async def start(self) -> Feed:
        if self._is_away:
            raise ConnectionError("no broker")
        return self

    async def close(self) -> None:
        self.closed = True

    async def __anext__(self) -> Change:
        item = self.items.popleft()
        if isinstance(item, Exception):
            raise item
        return item


class Client:
    """A client that answers with `reply`, when it may."""

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.reply = Reply(USER, 10, True, [], Totals(0, 0, 0))
        self.fails: list[Exception] = []  # one for each of the next queries
        self.failing: set[int] = set()  # users whose queries get no reply
        self.asked: list[int] = []
        self.is_away = False  # no feed can be opened
        self.may = asyncio.Event()
        self.may.set()

    def changes(self, from_: str, *, wanted: Any) -> Feed:
        assert from_ == "end"
        self.feeds.append(Feed(self.is_away))
        return self.feeds[-1]

    async def get(self, user_id: int, *, mentions: bool, totals: bool) -> Reply:
        assert mentions
        assert totals
        self.asked.append(user_id)
        await self.may.wait()
        if self.fails:
            raise self.fails.pop()
        if user_id in self.failing:
            raise TimeoutError(f"no reply for {user_id}")
        return self.reply._replace(user_id=user_id)

    def answer(self, version: int, *states: ReadState) -> None:
        self.reply = Reply(USER, version, True, list(states), Totals(len(states), 0, version))


async def followed(client: Client, *changes: Change | Exception) -> Mirror:
    """A mirror that follows the user, and what the feed has then."""
    mirror = await Mirror(client).__aenter__()  # type: ignore[arg-type]  # what it needs of one
    await mirror.follow(USER)
    client.feeds[-1].items.extend(changes)
    return mirror


async def test_changes_replace_what_is_older() -> None:
    client = Client()
    client.answer(10, state(7, 8), state(8, 9))
    mirror = await followed(
        client,
        change(9, state(7, 6)),  # older than the reply
        change(12, state(7, 12, last=6), deleted=[(0, 8), (0, 9)]),
    )
    changed = await anext(mirror)
    assert (changed.version, changed.read_states) == (12, [state(7, 12, last=6)])
    assert changed.deleted == [(0, 8)]  # it never held the other one
    assert dict(mirror.read_states(USER)) == {(0, 7): state(7, 12, last=6)}
    assert mirror.totals(USER) == changed.totals == Totals(1, 0, 12)
    assert mirror.version(USER) == 12


async def test_all_deleted() -> None:
    client = Client()
    client.answer(10, state(7, 8), state(8, 9))
    mirror = await followed(client, change(12, state(8, 9), state(9, 12), all_deleted=True))
    changed = await anext(mirror)
    assert (changed.read_states, changed.deleted) == ([state(9, 12)], [(0, 7)])
    assert mirror.read_states(USER).keys() == {(0, 8), (0, 9)}


async def test_what_is_told_while_the_query_is_under_way_is_applied_to_its_reply() -> None:
    client = Client()
    mirror = await Mirror(client).__aenter__()  # type: ignore[arg-type]
    client.may.clear()
    following = asyncio.create_task(mirror.follow(USER))
    await asyncio.sleep(0)
    client.feeds[-1].items.extend([change(9, state(6, 9)), change(12, state(7, 12)), Stop()])
    with pytest.raises(Stop):
        await anext(mirror)
    client.answer(10, state(8, 8))
    client.may.set()
    assert (await following).keys() == {(0, 7), (0, 8)}
    assert mirror.version(USER) == 12


async def test_a_later_page_of_the_reply_may_be_newer_than_a_change() -> None:
    """The reply has the first page's version."""
    client = Client()
    client.answer(10, state(7, 15))
    mirror = await followed(client, change(12, deleted=[(0, 7)]), change(16, state(8, 16)))
    assert (await anext(mirror)).version == 16
    assert mirror.read_states(USER).keys() == {(0, 7), (0, 8)}


async def test_a_change_in_parts_is_applied_when_its_last_part_is_there() -> None:
    client = Client()
    client.answer(10, state(5, 3))
    first = change(12, state(7, 12), all_deleted=True, part=(1, 2))
    mirror = await followed(
        client,
        first,
        Stop(),
        change(14, state(7, 12), all_deleted=True, part=(1, 2)),  # it is told again
        change(14, state(8, 14), part=(2, 2)),
    )
    with pytest.raises(Stop):
        await anext(mirror)
    assert mirror.read_states(USER).keys() == {(0, 5)}
    changed = await anext(mirror)
    assert changed.read_states == [state(7, 12), state(8, 14)]
    assert changed.deleted == [(0, 5)]


async def test_after_a_gap_it_says_what_is_different_and_tries_until_it_knows() -> None:
    client = Client()
    client.answer(10, state(7, 8), state(8, 9))
    mirror = await followed(client, FeedGapError(0, 5, "gone"), change(11, state(1, 11)))
    client.answer(20, state(8, 15), state(9, 16))
    client.fails = [TimeoutError("no reply")]
    with pytest.raises(TimeoutError):
        await anext(mirror)
    changed = await anext(mirror)
    assert changed.read_states == [state(8, 15), state(9, 16)]
    assert changed.deleted == [(0, 7)]
    assert (mirror.gaps, client.feeds[0].closed, len(client.feeds)) == (1, True, 2)
    client.feeds[1].items.append(change(21, state(9, 21)))
    assert (await anext(mirror)).read_states == [state(9, 21)]


async def test_after_a_gap_one_failure_keeps_nobody_else_from_being_told() -> None:
    client = Client()
    client.answer(10, state(7, 8))
    mirror = await followed(client, FeedGapError(0, 5, "gone"), Stop())
    users = [USER, USER + 1, USER + 2, USER + 3]
    for user in users[1:]:
        await mirror.follow(user)
    client.answer(20, state(7, 15))
    client.failing = {users[0], users[2]}
    client.asked.clear()
    with pytest.raises(TimeoutError):
        await anext(mirror)
    assert [(await anext(mirror)).user_id for _ in range(2)] == [users[1], users[3]]
    client.failing = {users[0]}
    with pytest.raises(TimeoutError):
        await anext(mirror)
    assert (await anext(mirror)).user_id == users[2]
    mirror.forget(users[0])
    client.feeds[-1].items.append(Stop())
    with pytest.raises(Stop):
        await anext(mirror)
    assert client.asked == [*users, users[0], users[2]]


async def test_after_a_gap_it_reads_on_before_it_asks() -> None:
    client = Client()
    client.answer(10, state(7, 8))
    mirror = await followed(client, FeedGapError(0, 5, "gone"))
    client.asked.clear()
    client.is_away = True
    with pytest.raises(ConnectionError):
        await anext(mirror)
    assert client.asked == []
    client.is_away = False
    client.answer(20, state(7, 15))
    assert (await anext(mirror)).read_states == [state(7, 15)]
    assert (mirror.gaps, client.asked) == (1, [USER])
    client.feeds[-1].items.append(change(21, state(8, 21)))
    assert (await anext(mirror)).read_states == [state(8, 21)]


async def test_after_a_gap_a_reply_that_is_older_than_what_it_has_does_not_count() -> None:
    """A worker that has lost the partition, and does not know it yet, may send such a reply."""
    client = Client()
    client.answer(10, state(7, 8))
    mirror = await followed(client, change(12, state(7, 12)), FeedGapError(0, 5, "gone"))
    await anext(mirror)
    with pytest.raises(TimeoutError, match="as new as"):
        await anext(mirror)
    assert dict(mirror.read_states(USER)) == {(0, 7): state(7, 12)}
    client.answer(20, state(7, 15))
    assert (await anext(mirror)).read_states == [state(7, 15)]


async def two_followers(mirror: Mirror, client: Client) -> list[Any]:
    """What two get who follow the user while the first query is under way."""
    client.may.clear()
    following = [asyncio.create_task(mirror.follow(USER)) for _ in range(2)]
    await asyncio.sleep(0)
    client.may.set()
    return await asyncio.gather(*following, return_exceptions=True)


async def test_two_who_follow_a_user_at_once_both_get_the_reply() -> None:
    client = Client()
    client.answer(10, state(7, 8))
    both = await two_followers(await Mirror(client).__aenter__(), client)  # type: ignore[arg-type]
    assert both == [{(0, 7): state(7, 8)}] * 2
    assert client.asked == [USER]


async def test_if_the_first_of_two_followers_fails_the_other_asks() -> None:
    client = Client()
    client.answer(10, state(7, 8))
    client.fails = [TimeoutError("no reply")]
    mirror = await Mirror(client).__aenter__()  # type: ignore[arg-type]
    first, second = await two_followers(mirror, client)
    assert isinstance(first, TimeoutError)
    assert second == {(0, 7): state(7, 8)}
    client.feeds[-1].items.append(change(12, state(7, 12)))
    assert (await anext(mirror)).read_states == [state(7, 12)]


async def test_a_user_who_is_not_followed_is_nothing_to_it() -> None:
    client = Client()
    mirror = await followed(client, change(12, state(7, 12)), Stop())
    mirror.forget(USER)
    with pytest.raises(Stop):
        await anext(mirror)
    with pytest.raises(KeyError):
        mirror.read_states(USER)
    client.fails = [TimeoutError("no reply")]
    with pytest.raises(TimeoutError):
        await mirror.follow(USER)
    with pytest.raises(KeyError):
        mirror.version(USER)


async def test_what_waits_for_a_reply_is_limited() -> None:
    client = Client()
    mirror = await Mirror(client).__aenter__()  # type: ignore[arg-type]
    client.may.clear()
    following = asyncio.create_task(mirror.follow(USER))
    await asyncio.sleep(0)
    client.feeds[-1].items.extend(change(n, state(7, n)) for n in range(WAITING_MAX + 1))
    with pytest.raises(OverflowError):
        await anext(mirror)
    following.cancel()


class Stop(Exception):
    """The feed has nothing more."""
