"""A reader of records that are gone: expired queries, compacted updates, a topic made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from readstates.streams import metrics
from readstates.streams.errors import DataLossError
from readstates.streams.kafka.reading import QUERIES
from tests.support import raw_batches as raw
from tests.support.reader_world import World, waiting


@pytest.mark.parametrize(("start", "end"), [(2, 4), (0, 1)], ids=["expired", "made anew"])
async def test_queries_that_are_gone(
    worlds: Callable[..., World], start: int, end: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader goes on where the log begins; a batch without records says so."""
    world = worlds(QUERIES)
    position = 1 if start else 3
    for _ in range(end):
        world.cluster.append(0, b"a")
    world.cluster.logs[0].start = start
    world.reader.start(0, position, token=1)
    assert await world.read(0, end, token=1) == list(range(start, end))
    first = world.batches()[0]
    assert (first.start, list(first.records), first.end) == (position, [], start)
    assert world.refused == []
    assert any("queries_gone topic=t partition=0" in r.getMessage() for r in caplog.records)


async def test_a_topic_made_anew_is_read_from_its_beginning(worlds: Callable[..., World]) -> None:
    """Also if the position is inside the new log, and a fetch is under way."""
    world = worlds(waiting(QUERIES))
    world.cluster.append(0, b"a", b"b")
    world.reader.start(0, 0, token=1)
    await world.read(0, 2, token=1)
    await world.asked(lambda asked: asked.positions.get(0) == 2)
    world.reader.begin_anew(0)
    world.reader.begin_anew(1)  # it is not read
    await world.until(lambda: world.offsets(token=1) == [0, 1, 0, 1])
    assert [(b.start, b.end) for b in world.batches(token=1)] == [(0, 2), (2, 0), (0, 2)]


async def test_updates_that_are_missing_stop_the_worker(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    world.cluster.logs[0].end = 3
    world.cluster.append(0, b"d")
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    assert isinstance(world.refused[0], DataLossError)
    assert "t partition 0: updates 1 … 2 are gone" in str(world.refused[0])
    await asyncio.sleep(0.05)
    assert set(world.offsets()) <= {0}
    assert len(world.refused) == 1


async def test_updates_that_are_missing_are_counted(worlds: Callable[..., World]) -> None:
    world = worlds(missing="count")
    before = metrics.UPDATES_MISSING._value.get()
    for end in (3, 5, 6):
        world.cluster.append(0, b"a")
        world.cluster.logs[0].end = end
    sparse = raw.batch_of(raw.NONE, [raw.Record(b"1", b"v")], last_delta=9)
    world.cluster.append_batch(0, sparse)
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 16, token=1) == [0, 3, 5, 6]
    assert metrics.UPDATES_MISSING._value.get() - before == 2 + 1 + 9
    assert "t partition 0: updates 1 … 2 are gone" in world.reader.missing
    assert world.refused == []


async def test_how_long_a_transaction_is_open(worlds: Callable[..., World]) -> None:
    world = worlds()
    log = world.cluster.logs[0]
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    assert world.reader.open_transaction_s(0) == 0
    log.stable = 1
    world.cluster.append(0, b"b")
    await world.until(lambda: world.reader.high_watermark(0) == 2)
    await world.until(lambda: world.reader.open_transaction_s(0) > 0)
    log.stable = None
    world.cluster.append(0, b"c")
    await world.read(0, 3)
    assert world.reader.open_transaction_s(0) == 0
    assert world.reader.open_transaction_s(1) == 0
