"""Fetches as the partitions get them: batches that cannot be read, and how much is taken at once.

The batches are made byte by byte, as a broker takes them; aiokafka's own classes read them.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition

from readstates.streams.kafka import fetched_records, raw_batches, unpack
from readstates.streams.partition.batch import UnreadBatch
from tests.support import raw_batches as raw

CODECS = [raw.GZIP, raw.SNAPPY, raw.LZ4, raw.ZSTD]
MOST = 2000
OVER = unpack.BATCH_BYTES_MAX + 1
TRANSACTIONAL, CONTROL = 0x10, 0x20


@pytest.fixture(autouse=True, scope="module")
def _bounded() -> None:
    """aiokafka's readers as the transport sets them up; they stay so, for this process."""
    unpack.install(fetched_records.unpacker)


def at(offset: int, batch: bytes) -> bytes:
    """The batch as it stands in the log at an offset, which its checksum leaves out."""
    return struct.pack(">q", offset) + batch[8:]


def of_producer(batch: bytes, producer: int) -> bytes:
    """The batch with a producer's ID; its checksum is wrong then."""
    return batch[:43] + struct.pack(">q", producer) + batch[51:]


def fetch(
    *batches: bytes, start: int = 0, aborted: list[tuple[int, int]] | None = None, crcs: bool = True
) -> fetched_records.FetchedRecords:
    records = raw_batches.RawBatches(b"".join(batches))
    place = TopicPartition("t", 0)
    return fetched_records.FetchedRecords(place, records, aborted, start, None, None, crcs, 1)


def everything(records: fetched_records.FetchedRecords, most: int = MOST) -> list[Any]:
    found: list[Any] = []
    while not records.done:
        position = records.next_fetch_offset
        taken = records.take(most)
        assert len(taken) <= most
        if taken:
            assert position <= taken[0].offset
            assert taken[-1].offset < records.next_fetch_offset
        found += taken
    return found


def good(offset: int, count: int = 2, codec: int = raw.NONE) -> bytes:
    return at(offset, raw.batch_of(codec, [raw.Record(b"1", b"v")] * count))


@pytest.mark.parametrize("codec", CODECS, ids=raw.NAMES.get)
def test_a_batch_that_unpacks_to_too_much(codec: int) -> None:
    bomb = at(2, raw.bomb(codec, OVER, count=3))
    records = fetch(good(0, codec=codec), bomb, good(5))
    found = everything(records)
    assert [record.offset for record in found] == [0, 1, 4, 5, 6]
    unread = found[2]
    assert isinstance(unread, UnreadBatch)
    assert (unread.first, unread.offset, unread.reason) == (2, 4, "too_large")
    assert unread.raw == bomb
    assert (unread.key, unread.value) == (None, None)
    assert records.next_fetch_offset == 7


@pytest.mark.parametrize("codec", CODECS, ids=raw.NAMES.get)
def test_as_much_as_is_allowed_is_read(codec: int) -> None:
    overhead = len(b"".join(raw.pieces([raw.Record(b"1", size=OVER - 100)]))) - (OVER - 100)
    size = unpack.BATCH_BYTES_MAX - overhead
    (record,) = everything(fetch(raw.bomb(codec, size)))
    assert record.value == b"a" * size
    (record,) = everything(fetch(raw.bomb(codec, size + 1)))
    assert isinstance(record, UnreadBatch)


@pytest.mark.parametrize("codec", CODECS, ids=raw.NAMES.get)
@pytest.mark.parametrize("how", ["behind", "cut", "other"])
def test_bytes_that_are_not_of_the_codec(codec: int, how: str) -> None:
    one = [raw.Record(b"1", b"v" * 100)]
    payload = raw.compressed(codec, raw.pieces(one))
    wrong = {"behind": payload + b"garbage!", "cut": payload[:-3], "other": b"garbage!" * 9}
    batch = raw.batch_of(codec, one, wrong[how])
    found = everything(fetch(batch, good(1)))
    assert [record.offset for record in found] == [0, 1, 2]
    assert isinstance(found[0], UnreadBatch)
    assert found[0].reason == "invalid_json"


def test_counts_and_lengths_that_lie() -> None:
    three = [raw.Record(b"1", b"v")] * 3
    payload = b"".join(raw.pieces(three))
    more, fewer = (raw.batch_of(raw.NONE, [*three[:n]], payload) for n in (4, 2))
    long = raw.batch_of(raw.NONE, three[:1], raw.varint(10**9) + payload[1:])
    short = raw.batch_of(raw.ZSTD, three, raw.compressed(raw.ZSTD, iter([payload[:20]])))
    assert [r.offset for r in everything(fetch(more))] == [0, 1, 2]
    for batch, end in ((fewer, 2), (long, 1), (short, 3)):
        records = fetch(batch, at(3, raw.batch_of(raw.NONE, three)))
        found = everything(records)
        assert isinstance(found[0], UnreadBatch), found[0]
        assert found[0].offset == end - 1
        assert [record.offset for record in found[1:]] == [3, 4, 5]


@pytest.mark.parametrize("codec", [raw.GZIP, raw.ZSTD, raw.LZ4], ids=raw.NAMES.get)
def test_streams_one_after_the_other(codec: int) -> None:
    """Together they are bounded, too."""
    two = [raw.Record(b"1", b"v"), raw.Record(b"1", size=OVER - 1000)]
    parts = list(raw.pieces(two))
    payload = raw.compressed(codec, iter(parts[:4])) + raw.compressed(codec, iter(parts[4:]))
    assert [r.offset for r in everything(fetch(raw.batch_of(codec, two, payload)))] == [0, 1]
    payload += raw.compressed(codec, iter([b"a" * 2000]))
    (record,) = everything(fetch(raw.batch_of(codec, two, payload)))
    assert record.reason == "too_large"


def test_a_fetch_that_begins_in_the_middle() -> None:
    bomb = at(2, raw.bomb(raw.ZSTD, OVER, count=3))
    found = everything(fetch(bomb, good(5), start=3))
    unread = [type(record) is UnreadBatch for record in found]
    assert [record.offset for record in found] == [4, 5, 6]
    assert unread == [True, False, False]
    assert found[0].first == 2
    middle = everything(fetch(good(2, 5, raw.LZ4), start=4), most=1)
    assert [record.offset for record in middle] == [4, 5, 6]


def test_aborted_and_control_batches_are_not_unpacked() -> None:
    before = fetched_records.unpacker.total_bytes
    bomb = raw.batch_of(raw.ZSTD, [raw.Record(b"1", size=OVER)], attributes=TRANSACTIONAL)
    marker = struct.pack(">hh", 0, 0)  # an abort's key
    control = raw.batch_of(raw.NONE, [raw.Record(marker, b"")], attributes=CONTROL | TRANSACTIONAL)
    batches = [of_producer(at(number, b), 7) for number, b in enumerate((bomb, control))]
    records = fetch(*batches, good(2), aborted=[(7, 0)], crcs=False)
    assert [record.offset for record in everything(records)] == [2, 3]
    assert fetched_records.unpacker.total_bytes == before
    (unread, *_) = everything(fetch(of_producer(bomb, 7), aborted=[], crcs=False))
    assert isinstance(unread, UnreadBatch)  # committed, it counts


def test_little_is_unpacked_at_once() -> None:
    """However many small batches unpack to much: one over the limit, then the caller goes on."""
    each = fetched_records.TAKEN_BYTES_MAX // 2 + 1
    records = fetch(*(at(number, raw.bomb(raw.ZSTD, each)) for number in range(5)))
    sizes = []
    while not records.done:
        taken = records.take(MOST)
        sizes.append((len(taken), taken.size_bytes >= fetched_records.TAKEN_BYTES_MAX))
    assert sizes == [(2, True), (2, True), (1, False)]
    bombs = fetch(*(at(number, raw.bomb(raw.ZSTD, OVER)) for number in range(3)))
    assert [len(bombs.take(MOST)) for _ in range(3)] == [1, 1, 1]


def test_no_more_records_are_made_than_are_asked_for() -> None:
    """A batch of a million empty records is small."""
    records = fetch(raw.batch_of(raw.ZSTD, [raw.Record(b"1", b"")] * 50_000))
    assert len(records.take(10)) == 10
    assert records.next_fetch_offset == 10
    assert len(everything(records)) == 49_990


@pytest.mark.parametrize("magic", [0, 1])
def test_the_older_formats_are_bounded_too(magic: int) -> None:
    def batch(size: int) -> bytes:
        builder = LegacyRecordBatchBuilder(magic, raw.GZIP, 1 << 30)
        for offset in range(2):
            builder.append(offset, 0, b"1", b"a" * size)
        made = bytes(builder.build())
        return at(1, made)  # of a compressed batch it is the last one's

    assert [record.offset for record in everything(fetch(batch(10)))] == [0, 1]
    (record,) = everything(fetch(batch(OVER // 2)))
    assert (record.offset, record.reason, record.timestamp) == (1, "too_large", 0)


def test_a_wrong_checksum_is_not_skipped() -> None:
    """It may be right in the next fetch: the position stays."""
    broken = bytearray(good(0))
    broken[-2] ^= 1
    records = fetch(bytes(broken))
    with pytest.raises(CorruptRecordException, match="CRC"):
        records.take(MOST)
    assert records.next_fetch_offset == 0


def test_what_is_skipped_with_a_batch_that_cannot_be_read() -> None:
    """Those behind it that cannot either, up to the first that can."""
    small = unpack.Unpacker(1 << 20)
    broken = raw.batch_of(raw.LZ4, [raw.Record(b"1", b"v")], b"garbage!" * 9)
    bombs = [
        at(3, raw.bomb(raw.ZSTD, 2 << 20, count=4)),
        at(7, broken),
        at(8, good(0, 2, raw.GZIP)),
    ]
    log = good(0, 3) + b"".join(bombs) + at(10, broken)

    def skipped(log: bytes, offset: int) -> tuple[int, int] | None:
        return fetched_records.behind_unreadable(log, offset, small)

    assert skipped(log, 1) == (8, 3)
    assert [skipped(b"".join(bombs), offset) for offset in (3, 6)] == [(8, 2)] * 2
    assert skipped(bombs[2] + at(10, broken), 9) == (11, 2)
    assert skipped(at(10, broken), 10) == (11, 1)
    assert skipped(bombs[0][:-1], 3) is None
    assert skipped(b"", 0) is None
