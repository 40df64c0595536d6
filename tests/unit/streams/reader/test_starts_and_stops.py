"""Where a reader begins, what it delivers, and what ends with a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from readstates.streams.kafka.reading import UPDATES, Gather
from tests.support import raw_batches as raw
from tests.support.reader_world import World, waiting


async def test_records_with_their_positions(worlds: Callable[..., World]) -> None:
    world = worlds()
    for _ in range(3):
        world.cluster.append(0, b"a", b"b")
    world.reader.start(0, 3, token=7)
    assert await world.read(0, 6, token=7) == [3, 4, 5]
    first, last = world.batches()[0], world.batches()[-1]
    assert (first.start, last.end, last.last) == (3, 6, True)
    assert [r.value for b in world.batches() for r in b.records] == [b"b", b"a", b"b"]
    assert sum(b.size_bytes for b in world.batches()) == 3 * len(
        next(raw.pieces([raw.Record(b"1", b"a")])) + b"a\0"
    )
    assert world.reader.end(0) == world.reader.high_watermark(0) == 6
    assert world.reader.end(1) is None
    world.reader.stop(0)
    assert world.reader.end(0) is None


async def test_the_end_is_known_at_once(worlds: Callable[..., World]) -> None:
    """Also if there is nothing to read: with open transactions and without."""
    world = worlds(waiting())
    world.cluster.append(0, b"a")
    world.cluster.append(0, b"b", b"c")
    world.cluster.logs[0].stable = 1
    world.reader.start(0, 1, token=1)
    await world.until(lambda: world.reader.end(0) is not None)
    assert (world.reader.end(0), world.reader.high_watermark(0)) == (1, 3)
    assert world.polls == []


async def test_start_takes_effect_while_a_fetch_waits(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=3)
    world.cluster.append(1, b"a")
    world.reader.start(0, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.start(1, 0, token=2)
    assert await world.read(1, 1) == [0]
    later = [asked for asked in world.broker.asked if 1 in asked.positions]
    assert {asked.connection for asked in later}.isdisjoint(
        {asked.connection for asked in world.broker.asked if 0 in asked.positions}
    )
    world.cluster.append(0, b"b")  # the fetch that waits is still good
    assert await world.read(0, 1) == [0]


async def test_both_connections_end_their_fetches_together(worlds: Callable[..., World]) -> None:
    """So that the next fetch is of all partitions again."""
    gather = Gather(400, 1)
    world = worlds(UPDATES._replace(idle=gather, busy=gather), partitions=2)
    world.reader.start(0, 0, token=1)
    first = await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.start(1, 0, token=2)
    side = await world.asked(lambda asked: asked.wait_ms > 0 and 1 in asked.positions)
    assert side.connection != first.connection
    assert side.wait_ms <= first.wait_ms
    await world.asked(lambda asked: len(asked.positions) == 2)


async def test_the_same_while_records_keep_coming(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=2)
    world.reader.start(0, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.start(1, 0, token=2)
    await world.asked(lambda asked: asked.wait_ms > 0 and 1 in asked.positions)
    count = 0
    while not any(len(asked.positions) == 2 for asked in world.broker.asked):
        count += 1
        for number in range(2):
            world.cluster.append(number, b"v")
            assert await world.read(number, count) == list(range(count))


async def test_stop_and_start_again(worlds: Callable[..., World]) -> None:
    world = worlds(waiting())
    world.cluster.append(0, b"a", b"b", b"c")
    world.reader.start(0, 0, token=1)
    await world.read(0, 3)
    world.reader.stop(0)
    world.reader.start(0, 1, token=2)
    assert await world.read(0, 3, token=2) == [1, 2]
    world.reader.start(0, 2, token=3)  # without a stop
    assert await world.read(0, 3, token=3) == [2]
    assert world.offsets(token=1) == [0, 1, 2]


async def test_nothing_arrives_after_stop(worlds: Callable[..., World]) -> None:
    """Not even what the thread has handed to the loop already."""
    world = worlds(waiting())
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    while not world.reader._polls:  # the loop is not given a turn
        pass
    world.reader.stop(0)
    world.reader.start(0, 0, token=2)
    await world.read(0, 1, token=2)
    assert world.offsets(token=1) == []


async def test_a_late_answer_to_an_earlier_start(worlds: Callable[..., World]) -> None:
    """It counts for nothing, also while records of the present start wait for room."""
    world = worlds(waiting())
    world.cluster.append(0, *[b"v" * 100] * 10)
    world.reader.start(0, 10, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.room[0] = 1
    world.reader.start(0, 0, token=2)
    await world.until(lambda: world.offsets(token=2))
    world.cluster.append(0, b"late")
    await asyncio.sleep(0.05)
    world.room[0] = 1 << 30
    world.reader.look()
    assert await world.read(0, 11, token=2) == list(range(11))
    assert world.offsets(token=1) == []


async def test_fetches_gather_records_while_they_come(worlds: Callable[..., World]) -> None:
    idle, busy = Gather(2_000, 1), Gather(30, 1 << 20)
    world = worlds(UPDATES._replace(idle=idle, busy=busy))
    world.reader.start(0, 0, token=1)
    first = await world.asked(lambda asked: asked.wait_ms > 0)
    assert (first.wait_ms, first.bytes_min) == idle
    world.cluster.append(0, b"a")
    await world.read(0, 1)
    later = await world.asked(lambda asked: asked.positions == {0: 1})
    assert (later.wait_ms, later.bytes_min) == busy


async def test_a_bug_ends_the_worker(worlds: Callable[..., World]) -> None:
    world = worlds()

    def wants(_number: int) -> int:
        raise ZeroDivisionError

    world.reader._wants = wants
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    assert isinstance(world.refused[0], ZeroDivisionError)


async def test_close(worlds: Callable[..., World]) -> None:
    world = worlds(waiting())
    world.reader.start(0, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.close()
    assert world.reader._thread is not None
    assert not world.reader._thread.is_alive()
    never_started = World()
    never_started.close()
