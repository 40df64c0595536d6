"""Loads while the database is away, and their order when many users wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from readstates.streams.cassandra.loader import Loader
from readstates.streams.config import Settings
from tests.support.small_world import World, event, query


class Gone:
    """A database whose loads fail at once, until it is back."""

    def __init__(self) -> None:
        self.asked = 0
        self.back = False

    def load(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self.asked += 1
        answer: dict[int, list[Any]] | None
        answer = {user_id: [] for user_id in user_ids} if self.back else None
        asyncio.get_running_loop().call_soon(done, answer)


async def test_loads_that_fail_at_once_pause_all_and_none_is_forgotten() -> None:
    world = World(slots=200, states_max=50)
    world.feed(*[event(n, n + 1, channel_id=1, message_id=5) for n in range(40)])
    store: Any = Gone()
    settings = Settings(load_retry_s=0.2, loads_in_flight_max=3, load_batch_users=2)
    loader = Loader(store, settings, lambda: None)
    for partition, _, user_id, ticket in world.loads:
        loader.want(partition, user_id, ticket, asked=False)
    for _ in range(50):
        await asyncio.sleep(0)
    assert store.asked == 2, "what was under way when the first one failed, and no more"
    store.back = True
    for _ in range(100):
        await asyncio.sleep(0.01)
    assert world.partition.table.resident_users == 40


class Slow:
    """A database that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.under_way: list[tuple[list[int], Callable[[Any], None]]] = []

    def load(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self.asked.append(user_ids)
        self.under_way.append((user_ids, done))

    def answer(self, fail: bool = False) -> None:
        user_ids, done = self.under_way.pop(0)
        done(None if fail else {user_id: [] for user_id in user_ids})


def crowd(users: int, in_flight: int = 1) -> tuple[World, Slow, Loader]:
    """A message has mentioned a crowd; so many requests at a time, each for two users."""
    world = World(slots=800, states_max=50, parked_max=1000)
    store = Slow()
    settings = Settings(load_retry_s=0.01, loads_in_flight_max=in_flight, load_batch_users=2)
    loader = Loader(cast(Any, store), settings, lambda: None)
    world.load = lambda partition, user_id, ticket, asked: loader.want(  # type: ignore[method-assign]
        partition, user_id, ticket, asked=asked
    )
    world.feed(*[event(n, n + 1, "mention", channel_id=1, message_id=5) for n in range(users)])
    return world, store, loader


async def test_a_user_whom_a_query_waits_for_is_loaded_before_a_crowd() -> None:
    world, store, _ = crowd(40)
    await asyncio.sleep(0)
    world.partition.queries.ask(query(30))  # of the crowd
    world.partition.queries.ask(query(1000))
    store.answer()
    assert store.asked == [[1, 2], [30, 1000]]
    store.answer()
    assert [one.get.user_id for one, *_ in world.answers] == [30, 1000]
    for _ in range(19):
        store.answer()
    asked = [user_id for user_ids in store.asked for user_id in user_ids]
    assert sorted(asked) == [*range(1, 41), 1000], "each user once"
    world.partition.check()


async def test_a_query_for_a_user_who_is_being_loaded_asks_no_second_time() -> None:
    world, store, _ = crowd(2, in_flight=8)
    await asyncio.sleep(0)
    world.partition.queries.ask(query(2))
    await asyncio.sleep(0)
    assert store.asked == [[1, 2]]
    store.answer()
    assert store.asked == [[1, 2]]
    assert len(world.answers) == 1


async def test_after_a_failure_the_asked_users_still_go_first() -> None:
    world, store, _ = crowd(4)
    await asyncio.sleep(0)
    world.partition.queries.ask(query(1000))
    store.answer()
    store.answer(fail=True)
    await asyncio.sleep(0.1)
    assert store.asked == [[1, 2], [1000], [1000]]


async def test_a_crowd_leaves_requests_for_queries_and_fewer_while_one_is_under_way() -> None:
    world, store, loader = crowd(200, in_flight=8)
    await asyncio.sleep(0)
    assert len(store.asked) == 6, "three quarters"
    world.partition.queries.ask(query(1000))
    await asyncio.sleep(0)
    assert store.asked[6:] == [[1000]], "at once, though users of the crowd wait"
    for _ in range(6):
        store.answer()
    assert len(store.asked) == 7 + 2, "a quarter, as long as the query's user is being loaded"
    store.answer()
    assert [one.get.user_id for one, *_ in world.answers] == [1000]
    assert len(store.asked) == 9 + 4
    while store.under_way:
        store.answer()
    assert world.partition.table.resident_users == 201
    assert not loader._under_way


async def test_queries_leave_requests_for_updates() -> None:
    world, store, _ = crowd(20, in_flight=8)
    for number in range(100):
        world.partition.queries.ask(query(1000 + number))
    await asyncio.sleep(0)
    crowd_first = [user_ids for user_ids in store.asked if user_ids[0] <= 20]
    assert len(store.asked) == 8
    assert len(crowd_first) == 2, "a quarter"
    while store.under_way:
        store.answer()
    assert world.partition.table.resident_users == 120


class Unreadable(Slow):
    """A database that cannot read the rows of one user."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self._bad = bad

    def load(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self.asked.append(user_ids)
        rows: dict[int, list[Any]] | None = {user_id: [] for user_id in user_ids}
        if self._bad in user_ids:
            rows = None
        asyncio.get_running_loop().call_soon(done, rows)


async def test_a_user_who_cannot_be_loaded_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its rows have too many tombstones, say: others share its requests, and come after it."""
    world, _, loader = crowd(40, in_flight=3)
    store = Unreadable(2)
    loader._store = cast(Any, store)
    await asyncio.sleep(0)
    for _ in range(200):
        if world.partition.table.resident_users == 39:
            break
        await asyncio.sleep(0.01)
    assert world.partition.table.resident_users == 39
    assert list(world.partition.loading.users) == [2]
    assert "load_fails_alone partition=0" in caplog.text
    for number in range(5):
        world.partition.queries.ask(query(1000 + number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(world.answers) == 5, "it does not make the others pause"
    loader._store = cast(Any, Unreadable(0))
    for _ in range(200):
        if not world.partition.loading.users:
            break
        await asyncio.sleep(0.01)
    assert world.partition.table.resident_users == 45, "once its rows can be read"
    assert not loader._failures
    assert not loader._later


async def test_while_the_database_is_away_nobody_is_suspected() -> None:
    world, store, loader = crowd(8, in_flight=2)
    await asyncio.sleep(0)
    for _ in range(5):
        while store.under_way:
            store.answer(fail=True)
        await asyncio.sleep(0.03)
    assert {len(user_ids) for user_ids in store.asked} == {2}
    while store.under_way:
        store.answer()
    assert world.partition.table.resident_users == 8
    assert not loader._failures


class WithLargeUsers(Slow):
    """A database in which some users have very many rows."""

    def __init__(self, large: set[int]) -> None:
        super().__init__()
        self._large = large
        self.large_asked: list[list[int]] = []
        self.large_under_way: list[tuple[list[int], Callable[[Any], None]]] = []

    def load(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self.asked.append(user_ids)
        rows: dict[int, list[Any]] = {user_id: [] for user_id in user_ids}
        is_cut = not self._large.isdisjoint(user_ids)
        asyncio.get_running_loop().call_soon(done, {} if is_cut else rows)

    def load_large(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self.large_asked.append(user_ids)
        self.large_under_way.append((user_ids, done))


async def test_users_with_very_many_rows_are_loaded_one_after_the_other() -> None:
    """All rows of a request are in memory at once."""
    world, _, loader = crowd(40, in_flight=8)
    store = WithLargeUsers({1, 4, 5, 9})
    loader._store = cast(Any, store)
    large = {1, 2, 3, 4, 5, 6, 9, 10}  # with those who share their requests
    for number in range(len(large)):
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(store.large_asked) == number + 1, "one at a time"
        assert world.partition.table.resident_users == 40 - len(large) + number
        user_ids, done = store.large_under_way.pop()
        done({user_id: [] for user_id in user_ids})
    assert sorted(store.large_asked) == [[user_id] for user_id in sorted(large)]
    assert world.partition.table.resident_users == 40
    assert loader._large_in_flight == loader._in_flight == 0


async def test_a_large_user_waits_outside_while_the_table_has_no_room() -> None:
    world, _, loader = crowd(4, in_flight=8)
    store = WithLargeUsers({1})
    loader._store = cast(Any, store)
    world.partition.room.stalled = True
    for _ in range(10):
        await asyncio.sleep(0.005)
    assert store.large_asked == []
    world.partition.room.stalled = False
    for _ in range(100):
        if store.large_asked:
            break
        await asyncio.sleep(0.005)
    assert [len(user_ids) for user_ids in store.large_asked] == [1]
