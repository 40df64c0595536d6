"""Fetching across a rebalance: aiokafka's own fetcher and subscription, and records made here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition

from readstates.streams.kafka import transport
from readstates.streams.partition.batch import Batch

PLACE = TopicPartition("updates", 1)
HANG_S = 5


class Fetched:
    """Records of a fetch, as many as offsets are left to it."""

    def __init__(self, start: int, end: int) -> None:
        self.next_fetch_offset, self._end = start, end

    def __iter__(self) -> Iterator[int]:
        while self.next_fetch_offset < self._end:
            self.next_fetch_offset += 1
            yield self.next_fetch_offset - 1


class World:
    """A consumer's thread without brokers: what it fetches is put there."""

    def __init__(self) -> None:
        self.subscription = SubscriptionState()
        self.subscription.subscribe({PLACE.topic})
        self.fetcher: Any = Fetcher.__new__(Fetcher)
        self.fetcher.__dict__.update(
            _closed=False,
            _fetch_waiters=set(),
            _loop=asyncio.get_running_loop(),
            _records={},
            _subscriptions=self.subscription,
            _wait_consume_future=None,
        )
        self.consumer = SimpleNamespace(
            _closed=False, _fetcher=self.fetcher, _subscription=self.subscription
        )
        self.thread: Any = transport.Thread.__new__(transport.Thread)
        self.thread.consumer = SimpleNamespace(flow_active=True)
        self.thread.app = SimpleNamespace(
            partitions=SimpleNamespace(
                owned={PLACE.partition: 1}, wants=lambda *_: True, pulled=lambda *_: None
            ),
            read_states_settings=SimpleNamespace(updates_topic=PLACE.topic),
        )

    def assign(self, position: int) -> None:
        self.subscription.assign_from_subscribed({PLACE})
        self.subscription.seek(PLACE, position)

    def arrive(self, start: int, end: int) -> None:
        assignment = self.subscription.subscription.assignment
        self.fetcher._records[PLACE] = FetchResult(
            PLACE, assignment=assignment, partition_records=Fetched(start, end), backoff=0
        )
        for waiter in self.fetcher._fetch_waiters:
            waiter.set_result(None)

    def position(self) -> int:
        state = self.subscription.subscription.assignment.state_value(PLACE)
        return int(state._position)

    async def fetch(self) -> list[Batch]:
        found = await asyncio.wait_for(
            self.thread._fetch_records(self.consumer, {PLACE}, 1.0, 2000), HANG_S
        )
        return [batch for polls in found.values() for poll in polls for _, batch in poll]


def parts(batch: Batch) -> tuple[int, Sequence[Any], int]:
    """What is compared; the records here are their offsets."""
    return batch.start, batch.records, batch.end


@pytest.fixture
async def world() -> World:
    made = World()
    made.assign(10)
    return made


async def test_what_was_fetched_is_taken_at_once(world: World) -> None:
    world.arrive(10, 14)
    (batch,) = await world.fetch()
    assert parts(batch) == (10, [10, 11, 12, 13], 14)


async def test_what_arrives_meanwhile_is_taken(world: World) -> None:
    waiting = asyncio.create_task(world.fetch())
    await asyncio.sleep(0.01)
    world.arrive(10, 12)
    (batch,) = await waiting
    assert parts(batch) == (10, [10, 11], 12)


def assigned_again(world: World) -> None:
    world.assign(7)


def assigned_and_sought(world: World) -> None:
    world.assign(3)
    world.subscription.seek(PLACE, 7)


@pytest.mark.parametrize("rebalance", [assigned_again, assigned_and_sought])
async def test_a_fetch_that_waits_through_a_rebalance(
    world: World, rebalance: Callable[[World], None]
) -> None:
    """Its batch is of the new assignment, from where that stands to where it then stands."""
    waiting = asyncio.create_task(world.fetch())
    await asyncio.sleep(0.01)
    rebalance(world)
    world.arrive(7, 9)
    (batch,) = await waiting
    assert parts(batch) == (7, [7, 8], world.position())


@pytest.mark.parametrize("stop", ["flow", "reassignment", "closing"])
async def test_what_arrives_for_nobody_stays(world: World, stop: str) -> None:
    """The position is not moved past records that nobody is given."""
    waiting = asyncio.create_task(world.fetch())
    await asyncio.sleep(0.01)
    world.arrive(10, 12)
    if stop == "flow":
        world.thread.consumer.flow_active = False
    elif stop == "closing":
        world.thread.app.partitions.wants = lambda *_: False
    else:
        world.subscription.begin_reassignment()
    assert await waiting == []
    assert world.position() == 10
