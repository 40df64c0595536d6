"""How much a reader takes: no more than there is room for, of each partition its share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from readstates.streams.kafka import reader
from readstates.streams.kafka.reading import UPDATES, Reading
from tests.support import raw_batches as raw
from tests.support.reader_world import World, waiting


def waiting_bytes(partition: Reading) -> int:
    batches = partition.batches
    return 0 if batches is None else batches.size_bytes


async def test_back_pressure(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=2)
    for _ in range(50):
        world.cluster.append(0, *[b"v" * 100] * 10)
    world.room[0] = 0
    world.reader.start(0, 0, token=1)
    world.reader.start(1, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0 and 1 in asked.positions)
    assert not any(0 in asked.positions for asked in world.broker.asked)
    assert world.polls == []
    world.room[0] = 1000
    world.reader.look()
    await world.until(lambda: world.room[0] <= 0)
    await asyncio.sleep(0.05)
    delivered = sum(batch.size_bytes for batch in world.batches())
    assert 1000 <= delivered < 1000 + 200  # the record that reaches it is the last
    world.room[0] = 1 << 30
    world.reader.look()
    assert await world.read(0, 500) == list(range(500))


async def test_room_is_noticed_without_being_told(worlds: Callable[..., World]) -> None:
    world = worlds(waiting())
    world.cluster.append(0, b"a")
    world.room[0] = 0
    world.reader.start(0, 0, token=1)
    await asyncio.sleep(0.05)
    world.room[0] = 100
    assert await world.read(0, 1) == [0]


async def test_what_is_on_its_way_counts(worlds: Callable[..., World]) -> None:
    """`wants` does not know of it yet: the loop is busy."""
    world = worlds(UPDATES._replace(records_max=1))
    for _ in range(50):
        world.cluster.append(0, b"v" * 100)
    world.room[0] = 250
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.polls)
    world.polls.clear()
    world.room[0] = 250
    world.reader.look()
    stop = asyncio.get_running_loop().time() + 0.1
    while asyncio.get_running_loop().time() < stop:
        pass  # nothing else gets a turn
    assert sum(len(poll) for poll in world.reader._polls) <= 3
    await world.until(lambda: world.room[0] <= 0)
    await asyncio.sleep(0.03)
    assert len(world.offsets()) in (2, 3)


async def test_no_poll_is_made_for_a_loop_that_does_not_come(worlds: Callable[..., World]) -> None:
    world = worlds(UPDATES._replace(records_max=1))
    world.cluster.append(0, *[b"v"] * 50)
    world.reader.start(0, 0, token=1)
    while len(world.reader._polls) < reader.POLLS_AHEAD:
        pass
    stop = asyncio.get_running_loop().time() + 0.05
    while asyncio.get_running_loop().time() < stop:
        pass
    assert len(world.reader._polls) == reader.POLLS_AHEAD
    assert await world.read(0, 50) == list(range(50))


async def test_no_partition_starves(worlds: Callable[..., World]) -> None:
    """A response has room for one of them; those that got nothing are first in the next one."""
    limits = UPDATES._replace(records_max=5, partition_bytes_max=100)
    world = worlds(limits, partitions=3)
    for number in range(3):
        for _ in range(20):
            world.cluster.append(number, *[b"v"] * 5)
    for number in range(3):
        world.room[number] = 0
        world.reader.start(number, 0, token=1)
    await asyncio.sleep(0.02)
    world.room.clear()
    world.reader.look()
    for number in range(3):
        assert await world.read(number, 100) == list(range(100))
        assert max(len(batch.records) for batch in world.batches(number)) == 5
    firsts = [asked.order[0] for asked in world.broker.asked if len(asked.order) == 3]
    assert set(firsts[:3]) == {0, 1, 2} or len(firsts) < 3


async def test_polls_are_bounded_over_all_partitions(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "TAKEN_BYTES_MAX", 5_000)
    world = worlds(partitions=4)
    for number in range(4):
        world.cluster.append(number, *[b"v" * 1000] * 10)
        world.reader.start(number, 0, token=1)
    for number in range(4):
        await world.read(number, 10)
    sizes = [sum(batch.size_bytes for _, _, batch in poll) for poll in world.polls]
    assert max(sizes) < 5_000 + 1_100


async def test_what_waits_for_room_is_bounded(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4: the bytes are dropped and fetched again."""
    monkeypatch.setattr(reader, "BUFFERED_BYTES_MAX", 8_000)
    world = await with_records_that_wait(worlds)
    full = world.reader._fetches.full
    await world.until(lambda: sum(waiting_bytes(r) for r in [*full.values()]) <= 8_000)
    await all_of_them(world)


async def test_unpacked_batches_that_wait_are_bounded(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4: they stay packed, and are unpacked again."""
    monkeypatch.setattr(reader, "UNPACKED_BATCHES_MAX", 0)
    world = await with_records_that_wait(worlds)
    full = world.reader._fetches.full
    await world.until(
        lambda: all(r.batches and not r.batches.unpacked_bytes for r in full.values())
    )
    assert full.keys() == {0, 1, 2}
    await all_of_them(world)


async def with_records_that_wait(worlds: Callable[..., World]) -> World:
    """Of each partition one record was delivered, and the rest of its batches waits for room."""
    world = worlds(partitions=3)
    for number in range(3):
        world.cluster.append(number, *[b"%d" % n * 300 for n in range(10)], codec=raw.GZIP)
        world.cluster.append(number, *[b"v" * 1000] * 5)
        world.room[number] = 1
        world.reader.start(number, 0, token=1)
    for number in range(3):
        await world.until(partial(world.offsets, number))
    return world


async def all_of_them(world: World) -> None:
    for number in range(3):
        world.room[number] = 1 << 30
    world.reader.look()
    for number in range(3):
        assert await world.read(number, 15, token=1) == list(range(15))
