"""Fetches as the partitions get them: batches that cannot be read, and how much is taken at once.

The batches are made byte by byte, as a broker takes them.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from readstates.streams.kafka import record_batches, unpack
from readstates.streams.kafka.record_batches import FetchedBatches
from readstates.streams.partition.batch import UnreadBatch
from tests.support import raw_batches as raw
from tests.support.raw_batches import at
from tests.unit.schemas.test_log_records import BUILDS

CODECS = [raw.GZIP, raw.SNAPPY, raw.LZ4, raw.ZSTD]
MOST = 1 << 40
OVER = unpack.BATCH_BYTES_MAX + 1
UNPACKER = unpack.Unpacker()


@pytest.fixture(params=BUILDS.values(), ids=list(BUILDS), autouse=True)
def _build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_batches, "LogRecords", request.param.LogRecords)
    monkeypatch.setattr(record_batches, "MalformedBatch", request.param.MalformedBatch)
    monkeypatch.setattr(record_batches, "_checksum", request.param.Checksum())


def fetch(
    *batches: bytes,
    start: int = 0,
    aborted: list[tuple[int, int]] | None = None,
    keep: bool = True,
    distrust: bool = False,
    trust: bool = False,
) -> FetchedBatches:
    data, end = b"".join(batches), 1 << 40
    return FetchedBatches(
        data,
        aborted or [],
        start,
        end,
        UNPACKER,
        keep_unread=keep,
        distrust=distrust,
        trusts_gaps=trust,
    )


def everything(fetched: FetchedBatches, most: int = 2000) -> list[Any]:
    found: list[Any] = []
    while not fetched.done:
        position = fetched.position
        records, _unread, _size = fetched.take(most, MOST)
        assert len(records) <= most
        if records:
            assert position <= records[0].offset
            assert records[-1].offset < fetched.position
        found += records
    return found


def offsets(records: list[Any]) -> list[int]:
    return [record.offset for record in records]


def good(offset: int, count: int = 2, codec: int = raw.NONE) -> bytes:
    return at(offset, raw.batch_of(codec, [raw.Record(b"1", b"v")] * count))


def broken(offset: int, count: int = 2) -> bytes:
    """A batch whose bytes are right and are not what it says."""
    return at(offset, raw.batch_of(raw.LZ4, [raw.Record(b"1", b"v")] * count, b"garbage!" * 9))


@pytest.mark.parametrize("codec", [raw.NONE, *CODECS], ids=["plain", *raw.NAMES.values()])
def test_every_codec(codec: int) -> None:
    records = [raw.Record(b"%d" % n, b"v" * n, headers=(("h", b"x"),)) for n in range(100)]
    batch = raw.batch_of(codec, records, times=(1_000, 5_000))
    found = everything(fetch(at(5, batch), good(105), start=5), most=7)
    assert offsets(found) == list(range(5, 107))
    assert [(r.key, r.value, r.headers) for r in found[:100]] == [
        (r.key, r.value, [("h", b"x")]) for r in records
    ]
    assert {r.timestamp for r in found[:100]} == {1_000}
    appended = raw.batch_of(codec, records, attributes=raw.APPEND_TIME, times=(1_000, 5_000))
    assert {r.timestamp for r in everything(fetch(appended))} == {5_000}


@pytest.mark.parametrize("codec", CODECS, ids=raw.NAMES.get)
def test_a_batch_that_unpacks_to_too_much(codec: int) -> None:
    bomb = at(2, raw.bomb(codec, OVER, count=3))
    fetched = fetch(good(0, codec=codec), bomb, good(5))
    found = everything(fetched)
    assert offsets(found) == [0, 1, 4, 5, 6]
    unread = found[2]
    assert isinstance(unread, UnreadBatch)
    assert (unread.first, unread.offset, unread.reason) == (2, 4, "too_large")
    assert unread.raw == bomb
    assert (unread.key, unread.value) == (None, None)
    assert fetched.position == 7
    skipped = fetch(good(0), bomb, good(5), keep=False)
    records, unread_batches, _ = skipped.take(2000, MOST)
    assert [(batch.first, batch.offset) for batch in unread_batches] == [(2, 4)]
    assert offsets(records + everything(skipped)) == [0, 1, 5, 6]
    assert skipped.position == 7


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
    assert offsets(found) == [0, 1, 2]
    assert isinstance(found[0], UnreadBatch)
    assert found[0].reason == "invalid_json"


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_nobody_knows(codec: int) -> None:
    batch = raw.batch_of(raw.NONE, [raw.Record(b"1", b"v")], attributes=codec)
    found = everything(fetch(batch, good(1)))
    assert offsets(found) == [0, 1, 2]
    assert f"codec has the number {codec}" in found[0].text


@pytest.mark.parametrize("number", [0, 1, 3])
def test_another_format(number: int) -> None:
    batch = good(3, 1)
    other = batch[:16] + bytes([number]) + batch[17:]
    found = everything(fetch(other, good(4)))
    assert [(type(r) is UnreadBatch, r.offset) for r in found] == [
        (True, 3),
        (False, 4),
        (False, 5),
    ]
    assert f"its format is {number}" in found[0].text
    short = struct.pack(">qiIb", 3, 10, 0, number) + bytes(5)  # the older ones have short heads
    assert offsets(everything(fetch(short, good(4)))) == [3, 4, 5]


def test_counts_and_lengths_that_lie() -> None:
    three = [raw.Record(b"1", b"v")] * 3
    payload = b"".join(raw.pieces(three))
    fewer = raw.batch_of(raw.NONE, three[:2], payload)
    long = raw.batch_of(raw.NONE, three[:1], raw.varint(10**9) + payload[1:])
    short = raw.batch_of(raw.ZSTD, three, raw.compressed(raw.ZSTD, iter([payload[:20]])))
    for batch, end in ((fewer, 2), (long, 1), (short, 3)):
        found = everything(fetch(batch, good(3, 3), trust=True))
        assert isinstance(found[0], UnreadBatch), found[0]
        assert found[0].offset == end - 1
        assert offsets(found[1:]) == [3, 4, 5]


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_a_batch_is_read_as_a_whole_or_not_at_all(most: int) -> None:
    """So that another owner, who takes other portions, sees the same records."""
    four = [raw.Record(b"1", b"v")] * 4
    payload = b"".join(raw.pieces(four))
    (unread,) = everything(fetch(raw.batch_of(raw.NONE, four, payload[:-1])), most)
    assert isinstance(unread, UnreadBatch)
    assert (unread.first, unread.offset) == (0, 3)


@pytest.mark.parametrize("codec", [raw.GZIP, raw.ZSTD, raw.LZ4], ids=raw.NAMES.get)
def test_streams_one_after_the_other(codec: int) -> None:
    """Together they are bounded, too."""
    two = [raw.Record(b"1", b"v"), raw.Record(b"1", size=OVER - 1000)]
    parts = list(raw.pieces(two))
    payload = raw.compressed(codec, iter(parts[:4])) + raw.compressed(codec, iter(parts[4:]))
    assert offsets(everything(fetch(raw.batch_of(codec, two, payload)))) == [0, 1]
    payload += raw.compressed(codec, iter([b"a" * 2000]))
    (record,) = everything(fetch(raw.batch_of(codec, two, payload)))
    assert record.reason == "too_large"


def test_a_fetch_that_begins_in_the_middle() -> None:
    bomb = at(2, raw.bomb(raw.ZSTD, OVER, count=3))
    found = everything(fetch(bomb, good(5), start=3))
    assert [type(record) is UnreadBatch for record in found] == [True, False, False]
    assert offsets(found) == [4, 5, 6]
    assert found[0].first == 2
    middle = everything(fetch(good(2, 5, raw.LZ4), start=4), most=1)
    assert offsets(middle) == [4, 5, 6]
    assert offsets(everything(fetch(good(0, 5), good(5), start=5))) == [5, 6]


def test_the_last_batch_may_be_cut_off() -> None:
    """A broker cuts a response at its size; the rest comes with the next one."""
    for cut in (1, 60, 40):
        fetched = fetch(good(0), good(2)[:-cut])
        assert offsets(everything(fetched)) == [0, 1]
        assert (fetched.position, fetched.is_damaged) == (2, False)
    for left in (1, 11, 12, 30):
        fetched = fetch(good(0)[:left])
        assert everything(fetched) == []
        assert (fetched.position, fetched.is_damaged) == (0, True)


def test_offsets_that_compaction_removed() -> None:
    sparse = [raw.Record(b"1", b"v", delta=delta) for delta in (2, 5)]
    first = at(10, raw.batch_of(raw.NONE, sparse, last_delta=9))
    empty = at(30, raw.batch_of(raw.NONE, [], last_delta=4))
    fetched = fetch(first, empty, start=8, trust=True)
    assert offsets(everything(fetched)) == [12, 15]
    assert fetched.position == 35
    assert fetched.gaps == [(8, 10), (10, 12), (13, 15), (16, 20), (20, 30), (30, 35)]
    fetched = fetch(first, start=13)
    assert offsets(everything(fetched, most=1)) == [15]
    assert fetched.position == 20
    assert fetched.gaps == [(13, 15), (16, 20)]
    fetched = fetch(first, start=17)
    assert everything(fetched) == []
    assert fetched.position == 20
    assert fetched.gaps == [(17, 20)]
    ignored = fetch(first, empty, start=8, keep=False)
    assert offsets(everything(ignored)) == [12, 15]
    assert ignored.gaps == []


def test_a_batch_that_begins_later_is_fetched_again_first() -> None:
    """Its first offset is not covered by its checksum, so it may be damage on the way."""
    doubted = fetch(good(0), good(4))
    assert offsets(everything(doubted)) == [0, 1]
    assert (doubted.position, doubted.is_damaged, doubted.gaps) == (2, True, [])
    believed = fetch(good(4), good(8), start=2, distrust=True)
    assert offsets(everything(believed)) == [4, 5, 8, 9]
    assert believed.gaps == [(2, 4), (6, 8)]


def test_what_is_no_gap() -> None:
    """Transactions, markers, batches that cannot be read, and deltas that a producer chose."""
    odd = at(3, raw.batch_of(raw.NONE, [raw.Record(b"1", b"v")], last_delta=0))
    log = [
        transaction(0, 7),
        raw.marker(1, 7, aborts=True),
        at(2, raw.batch_of(raw.LZ4, [raw.Record(b"1", b"v")], b"garbage!" * 9)),
        odd,
        good(4, 3, raw.ZSTD),
    ]
    fetched = fetch(*log, aborted=[(7, 0)])
    assert offsets(everything(fetched)) == [2, 3, 4, 5, 6]
    assert fetched.gaps == []


def transaction(offset: int, producer: int, count: int = 1, value: bytes = b"v") -> bytes:
    records = [raw.Record(b"1", value)] * count
    kind = raw.TRANSACTIONAL
    return at(offset, raw.batch_of(raw.NONE, records, attributes=kind, producer=producer))


def test_aborted_transactions_and_markers() -> None:
    log = [
        transaction(0, 7),
        transaction(1, 8),
        good(2, 1),
        raw.marker(3, 7, aborts=True),
        transaction(4, 7, 2),
        raw.marker(6, 8, aborts=False),
        raw.marker(7, 7, aborts=False),
        transaction(8, 8),
        raw.marker(9, 8, aborts=True),
    ]
    fetched = fetch(*log, aborted=[(8, 8), (7, 0)])
    assert offsets(everything(fetched)) == [1, 2, 4, 5]
    assert fetched.position == 10
    assert offsets(everything(fetch(*log))) == [0, 1, 2, 4, 5, 8]
    fetched = fetch(*log[3:], start=3, aborted=[(7, 0), (8, 8)])
    assert offsets(everything(fetched)) == [4, 5]
    markers = fetch(raw.marker(3, 7, aborts=True), raw.marker(4, 8, aborts=False), start=3)
    assert (everything(markers), markers.position) == ([], 5)


def test_aborted_batches_are_not_unpacked() -> None:
    before = UNPACKER.total_bytes
    kind = raw.TRANSACTIONAL
    bomb = raw.batch_of(raw.ZSTD, [raw.Record(b"1", size=OVER)], attributes=kind, producer=7)
    fetched = fetch(bomb, raw.marker(1, 7, aborts=True), good(2), aborted=[(7, 0)])
    assert offsets(everything(fetched)) == [2, 3]
    assert UNPACKER.total_bytes == before
    (unread,) = everything(fetch(bomb))
    assert isinstance(unread, UnreadBatch)  # committed, it counts


def test_a_marker_that_cannot_be_read_is_skipped() -> None:
    kind = raw.CONTROL | raw.TRANSACTIONAL
    for records in ([], [raw.Record(b"x", b"")], [raw.Record(b"1234", b"")] * 2):
        batch = raw.batch_of(raw.NONE, records, attributes=kind, producer=7, last_delta=0)
        fetched = fetch(batch, transaction(1, 7), aborted=[(7, 0)])
        assert (everything(fetched), fetched.position) == ([], 2)


def test_little_is_unpacked_at_once() -> None:
    """However many small batches unpack to much: one over the limit, then the caller goes on."""
    each = record_batches.WORK_BYTES_MAX // 2 + 1
    fetched = fetch(*(at(number, raw.bomb(raw.ZSTD, each)) for number in range(5)))
    sizes = []
    while not fetched.done:
        records, _, size = fetched.take(2000, MOST)
        sizes.append((len(records), size >= record_batches.WORK_BYTES_MAX))
    assert sizes == [(2, True), (2, True), (1, False)]
    for keep in (True, False):
        bombs = fetch(*(at(number, raw.bomb(raw.ZSTD, OVER)) for number in range(3)), keep=keep)
        assert [len(bombs.take(2000, MOST).unread) for _ in range(3)] == [1, 1, 1]


def test_small_batches_that_cannot_be_read_are_many_at_once() -> None:
    """They cost what their bytes cost, not what a large one might."""
    fetched = fetch(*(broken(2 * number) for number in range(20)), keep=False)
    assert len(fetched.take(2000, MOST).unread) == 20
    kept = fetch(*(broken(2 * number) for number in range(20)))
    records, _, size = kept.take(2000, MOST)
    assert size == sum(len(record.raw) for record in records)


def test_no_more_records_are_made_than_are_asked_for() -> None:
    """A batch of a million empty records is small."""
    fetched = fetch(raw.batch_of(raw.ZSTD, [raw.Record(b"1", b"")] * 50_000))
    assert len(fetched.take(10, MOST).records) == 10
    assert fetched.position == 10
    assert len(fetched.take(10, 1).records) == 1
    assert len(everything(fetched)) == 49_989


def test_an_unpacked_batch_can_be_forgotten() -> None:
    records = [raw.Record(b"1", b"v" * 1000)] * 100
    fetched = fetch(raw.batch_of(raw.GZIP, records), good(100))
    found = fetched.take(30, MOST).records
    assert fetched.unpacked_bytes > 100_000
    assert fetched.size_bytes > fetched.unpacked_bytes
    fetched.forget_unpacked()
    assert fetched.unpacked_bytes == 0
    found += everything(fetched, most=33)
    assert offsets(found) == list(range(102))
    assert fetched.unpacked_bytes == 0


def test_a_wrong_checksum_is_not_skipped_at_once() -> None:
    """It may be right in the next fetch: the position stays, and what came before counts."""
    damaged = bytearray(good(2))
    damaged[-2] ^= 1
    fetched = fetch(good(0), bytes(damaged), good(4))
    assert offsets(everything(fetched)) == [0, 1]
    assert (fetched.position, fetched.is_damaged) == (2, True)


@pytest.mark.parametrize("place", [21, 23, 30, 43, 57, 65])
def test_a_wrong_checksum_that_stays(place: int) -> None:
    """The batch is unread; of its last offset only what fits to the others is believed."""
    damaged = bytearray(good(2, 3))
    damaged[place] ^= 0xFF
    found = everything(fetch(bytes(damaged), good(5), start=2, distrust=True))
    assert offsets(found) == [4, 5, 6]
    assert isinstance(found[0], UnreadBatch)
    assert (found[0].first, found[0].raw) == (2, bytes(damaged))
    assert "checksum" in found[0].text
    enlarged = bytearray(good(2, 3))
    enlarged[25] ^= 0x7F  # of the last offset
    found = everything(fetch(bytes(enlarged), good(5), start=2, distrust=True))
    assert offsets(found) == [4, 5, 6]


def test_only_the_batch_that_stayed_wrong_is_distrusted() -> None:
    damaged = [bytearray(good(offset)) for offset in (0, 2)]
    for batch in damaged:
        batch[-2] ^= 1
    fetched = fetch(*map(bytes, damaged), distrust=True)
    (unread,) = everything(fetched)
    assert isinstance(unread, UnreadBatch)
    assert (fetched.position, fetched.is_damaged) == (2, True)


def test_what_is_kept_of_an_unread_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_batches, "UNREAD_BYTES_MAX", 50)
    (unread,) = everything(fetch(broken(0)))
    assert unread.raw == broken(0)[:50]
    assert f"a batch of {len(broken(0))} bytes cannot be read" in unread.text
