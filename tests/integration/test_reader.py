"""The reader against real brokers: producers' records, transactions, compaction, faults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka import Producer

from readstates.ops.local.stack import Stack
from readstates.streams import metrics
from readstates.streams.errors import DataLossError
from readstates.streams.kafka.reading import QUERIES, UPDATES, Limits
from readstates.streams.partition.batch import UnreadBatch
from tests.support import raw_batches as raw
from tests.support.topic_reading import ENV, WAIT_S, Topic, reading

MIB = 1 << 20


@pytest.fixture(scope="module")
def config(stack: Stack) -> dict[str, Any]:
    return {"bootstrap.servers": stack.env()[f"{ENV}KAFKA_BOOTSTRAP"]}


@pytest.mark.parametrize("limits", [UPDATES, QUERIES], ids=["updates", "queries"])
async def test_every_codec_from_the_middle_of_a_batch(
    config: dict[str, Any], limits: Limits
) -> None:
    topic, codecs = Topic(config), ["none", "gzip", "snappy", "lz4", "zstd"]
    values = [b"value %d " % n * 50 for n in range(100)]
    for codec in codecs:
        topic.write(*values, codec=codec)
    end = len(codecs) * len(values)
    async with reading(topic, limits) as read:
        read.reader.start(0, 37, token=1)
        await read.up_to(end)
        fields = [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in read.records()]
        assert fields == topic.by_librdkafka(37, end)
        assert [fields[0][0], fields[-1][0]] == [37, end - 1]
        assert (read.of()[-1].last, read.reader.end(0)) == (True, end)


async def test_the_brokers_own_time(config: dict[str, Any]) -> None:
    topic = Topic(config, message_timestamp_type="LogAppendTime")
    topic.write(b"a", b"b")
    topic.write(b"c", codec="zstd")
    async with reading(topic) as read:
        read.reader.start(0, 0, token=1)
        await read.up_to(3)
        found = [(r.offset, r.timestamp) for r in read.records()]
    assert found == [fields[:2] for fields in topic.by_librdkafka(0, 3)]


async def test_transactions(config: dict[str, Any]) -> None:
    topic = Topic(config)
    first, second = (
        Producer({**config, "transactional.id": f"{topic.name}-{n}"}) for n in range(2)
    )
    for producer in (first, second):
        producer.init_transactions(WAIT_S)

    def write(producer: Producer, *values: bytes) -> None:
        for value in values:
            producer.produce(topic.name, value, partition=0)
        assert producer.flush(WAIT_S) == 0

    first.begin_transaction()
    second.begin_transaction()
    write(first, b"aborted 1")
    write(second, b"kept 1")
    write(first, b"aborted 2")
    first.abort_transaction(WAIT_S)
    second.commit_transaction(WAIT_S)
    topic.write(b"plain")
    kept = [b"kept 1", b"plain", b"kept 2", b"behind it"]
    async with reading(topic) as read:

        def values(token: int = 1) -> list[bytes]:
            return [record.value for record in read.records(token=token)]

        read.reader.start(0, 0, token=1)
        await read.until(lambda: values() == kept[:2])
        await read.until(lambda: read.reader.end(0) == read.reader.high_watermark(0) == 6)
        await read.up_to(6)  # the markers of the transactions are read, too
        first.begin_transaction()
        write(first, b"kept 2")
        topic.write(b"behind it")
        await read.until(lambda: read.reader.high_watermark(0) == 8)
        assert read.reader.end(0) == 6  # the open transaction is beyond it
        await asyncio.sleep(0.3)
        assert values() == kept[:2]
        first.commit_transaction(WAIT_S)
        await read.up_to(9)
        assert values() == kept
        assert read.offsets() == [fields[0] for fields in topic.by_librdkafka(0, 8)]
        read.reader.start(0, 2, token=2)  # amid the aborted transaction
        await read.up_to(9, token=2)
        assert values(token=2) == kept[1:]


async def test_gaps_that_compaction_leaves(config: dict[str, Any]) -> None:
    topic = Topic(
        config,
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.0",
        max_compaction_lag_ms="100",
    )
    for _ in range(3):
        topic.write(*[b"%d" % n for n in range(10)])  # the same keys again
        await asyncio.sleep(0.2)
    topic.write(b"in a new segment")

    def is_compacted() -> bool:
        return bool(topic.by_librdkafka(0, 31)[0][0] > 0)

    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(is_compacted):  # noqa: ASYNC110 (the broker does it)
            await asyncio.sleep(0.5)
    missing = metrics.UPDATES_MISSING._value
    for limits, is_counted in ((UPDATES, True), (QUERIES, False)):
        async with reading(topic, limits, missing_updates="count") as read:
            for start in (0, 13):
                before = missing.get()
                read.reader.start(0, start, token=start)
                offsets = await read.up_to(31, token=start)
                assert offsets == [fields[0] for fields in topic.by_librdkafka(start, 31)]
                assert read.of(token=start)[0].start == start
                lost = 31 - start - len(offsets) if is_counted else 0
                assert missing.get() - before == lost
    async with reading(topic) as read:
        read.reader.start(0, 0, token=1)
        await read.until(lambda: read.refused)
        assert isinstance(read.refused[0], DataLossError)
        assert f"{topic.name} partition 0: updates 0 … " in str(read.refused[0])
        assert read.records() == []


@pytest.mark.parametrize("limits", [UPDATES, QUERIES], ids=["updates", "queries"])
async def test_bombs(config: dict[str, Any], limits: Limits) -> None:
    """Each codec's, between good ones: everything else is read."""
    topic = Topic(config)
    sizes = {raw.ZSTD: 300, raw.GZIP: 100, raw.LZ4: 100, raw.SNAPPY: 20}
    placed = []
    for codec, size in sizes.items():
        topic.write(b"good")
        placed.append(topic.write_batch(raw.bomb(codec, size * MIB, count=3)))
    topic.write(b"good")
    async with reading(topic, limits) as read:
        read.reader.start(0, 0, token=1)
        await read.up_to(17)
        good = [r for r in read.records() if not isinstance(r, UnreadBatch)]
        assert [r.offset for r in good] == [0, 4, 8, 12, 16]
        assert {r.value for r in good} == {b"good"}
        unread = [r for r in read.records() if isinstance(r, UnreadBatch)]
    places = [(batch.first, batch.offset, batch.reason) for batch in unread]
    expected = [(first, first + 2, "too_large") for first in placed]
    assert places == (expected if limits.keep_unread else [])


async def test_start_and_stop_and_room(config: dict[str, Any]) -> None:
    topic = Topic(config, partitions=3)
    for number in range(3):
        topic.write(*[b"v" * 1000] * 200, number=number)
    async with reading(topic, UPDATES._replace(records_max=20)) as read:
        read.reader.start(0, 0, token=1)
        assert await read.up_to(200) == list(range(200))
        await asyncio.sleep(0.2)  # a fetch waits at the broker
        read.reader.start(1, 150, token=2)
        assert await read.up_to(200, 1, token=2) == list(range(150, 200))
        read.reader.stop(0)
        topic.write(b"new")
        read.room = 0
        read.reader.start(2, 0, token=3)
        await asyncio.sleep(0.3)
        assert read.of(2, token=3) == []
        read.room = 5_000
        read.reader.look()
        assert await read.up_to(200, 2, token=3) == list(range(200))
        assert max(batch.size_bytes for batch in read.of(2, token=3)) < 7_000
        read.reader.start(0, 199, token=4)
        assert await read.up_to(201, token=4) == [199, 200]
        assert read.offsets(0, token=1) == list(range(200))


async def test_a_topic_that_is_made_anew(config: dict[str, Any]) -> None:
    """Its leader's epoch begins anew, too. A position beyond its end is a loss of data."""
    topic = Topic(config)
    topic.write(b"a", b"b", b"c")
    async with reading(topic) as read:
        read.reader.start(0, 0, token=1)
        await read.up_to(3)
        topic.admin.delete_topics([topic.name])[topic.name].result(WAIT_S)
        read.reader.stop(0)
        await asyncio.sleep(1)
        topic.create()
        topic.write(b"d", b"e")
        read.reader.start(0, 0, token=2)
        await read.up_to(2, token=2)
        assert [r.value for r in read.records(token=2)] == [b"d", b"e"]
        assert read.refused == []
        read.reader.start(0, 3, token=3)
        await read.until(lambda: read.refused)
        assert isinstance(read.refused[0], DataLossError)
        assert f"{topic.name} partition 0: the next " in str(read.refused[0])


async def test_a_topic_that_is_not_there(config: dict[str, Any]) -> None:
    """It is not made by asking for it, whatever the brokers' setting is; it is read once it is."""
    topic = Topic(config)
    topic.admin.delete_topics([topic.name])[topic.name].result(WAIT_S)
    async with reading(topic) as read:
        read.reader.start(0, 0, token=1)
        await asyncio.sleep(2)
        assert topic.name not in topic.admin.list_topics(timeout=WAIT_S).topics
        topic.create()
        topic.write(b"a")
        assert await read.up_to(1) == [0]
        assert read.refused == []
