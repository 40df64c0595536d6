"""Loads while the database is away, and their order when many users wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

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
