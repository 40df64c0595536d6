"""Batches that a reader skips, keeps unread, or fetches again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from readstates.streams import metrics
from readstates.streams.kafka import reading
from readstates.streams.kafka.reading import QUERIES
from readstates.streams.partition.batch import UnreadBatch
from tests.support import raw_batches as raw
from tests.support.reader_world import World


async def test_aborted_transactions_are_skipped(worlds: Callable[..., World]) -> None:
    world = worlds()
    one, kind = [raw.Record(b"1", b"v")], raw.TRANSACTIONAL
    world.cluster.append_batch(0, raw.batch_of(raw.NONE, one, attributes=kind, producer=7))
    world.cluster.append_batch(0, raw.marker(0, 7, aborts=True))
    world.cluster.append_batch(0, raw.batch_of(raw.NONE, one, attributes=kind, producer=7))
    world.cluster.append_batch(0, raw.marker(0, 7, aborts=False))
    world.cluster.logs[0].aborted = [(7, 0)]
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 4, token=1) == [2]


async def test_updates_that_cannot_be_read(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    bad = raw.batch_of(raw.ZSTD, [raw.Record(b"1", b"v")] * 3, b"garbage!" * 9)
    world.cluster.append_batch(0, bad)
    world.cluster.append(0, b"b")
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 5, token=1) == [0, 3, 4]
    unread = [record for batch in world.batches() for record in batch.records][1]
    assert isinstance(unread, UnreadBatch)
    assert (unread.first, unread.offset, unread.raw) == (1, 3, raw.at(1, bad))


async def test_queries_that_cannot_be_read(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world, before = worlds(QUERIES), metrics.QUERY_BATCHES_SKIPPED._value.get()
    world.cluster.append(0, b"a")
    for codec in (raw.ZSTD, raw.LZ4):
        world.cluster.append_batch(0, raw.bomb(codec, QUERIES.unpacked_bytes_max + 1, count=2))
    world.cluster.append(0, b"b")
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 6, token=1) == [0, 5]
    assert metrics.QUERY_BATCHES_SKIPPED._value.get() == before + 2
    said = [r.getMessage() for r in caplog.records if "query_batch_skipped" in r.getMessage()]
    assert any("partition=0 offset=1 last_offset=" in line for line in said)
    assert any("last_offset=4 " in line for line in said)


async def test_damage_on_the_way(worlds: Callable[..., World]) -> None:
    """Fetched again, nothing of it is lost or taken twice."""
    world = worlds()
    for _ in range(3):
        world.cluster.append(0, b"a", b"b")
    size = len(world.cluster.logs[0].batches[0])
    world.broker.damages.extend([size + 65, 12])  # in the second batch, then in the first one
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 6, token=1) == list(range(6))
    assert all(not isinstance(r, UnreadBatch) for b in world.batches() for r in b.records)


async def test_damage_that_stays(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds()
    damaged = bytearray(raw.batch_of(raw.NONE, [raw.Record(b"1", b"v")] * 2))
    damaged[-3] ^= 1
    world.cluster.append(0, b"a")
    world.cluster.append_batch(0, bytes(damaged))
    world.cluster.append(0, b"b")
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 4, token=1) == [0, 2, 3]
    tries = [asked for asked in world.broker.asked if asked.positions == {0: 1}]
    assert len(tries) >= reading.DAMAGED_TRIES
    assert sum("batch_damaged" in r.getMessage() for r in caplog.records) == reading.DAMAGED_TRIES
