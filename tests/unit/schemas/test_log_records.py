"""Records as they are in the log, and a batch's checksum, by both builds."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import readstates.schemas
from readstates.schemas import log_records
from tests.support import raw_batches as raw

MOST = 1 << 40


def _from_source() -> ModuleType:
    source = Path(readstates.schemas.__path__[0]) / "log_records.py"
    spec = importlib.util.spec_from_file_location("log_records_source", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    assert not module.COMPILED
    return module


BUILDS = {"source": _from_source()} | ({"compiled": log_records} if log_records.COMPILED else {})


@pytest.fixture(params=BUILDS.values(), ids=list(BUILDS))
def build(request: pytest.FixtureRequest) -> Any:
    return request.param


def payload(*records: raw.Record) -> bytes:
    return b"".join(raw.pieces(records))


def read(build: Any, data: bytes, count: int, last: int | None = None, begin: int = 0) -> Any:
    last = count - 1 if last is None else last
    return build.LogRecords(data, begin, count, 100, last, 1_000, -1)


def test_the_checksum_is_crc32c(build: Any) -> None:
    """The values of RFC 3720, B.4."""
    of = build.Checksum().of
    assert of(b"123456789", 0) == 0xE3069283
    assert of(bytes(32), 0) == 0x8A9136AA
    assert of(b"\xff" * 32, 0) == 0x62A8AB43
    assert of(bytes(range(32)), 0) == 0x46DD794E
    assert of(bytes(range(31, -1, -1)), 0) == 0x113FDB5C
    assert of(b"", 0) == 0
    assert [of(b"xyz" + b"123456789", 3), of(b"x", 1)] == [0xE3069283, 0]


def test_fields_of_a_record(build: Any) -> None:
    headers = (("a", b"1"), ("é", None), (b"\xff!", b""))
    data = payload(
        raw.Record(b"key", b"value", time=5), raw.Record(b"", None, headers=headers, delta=7)
    )
    first, second = read(build, data, 2, 9).take(0, MOST, MOST)
    assert (first.offset, first.timestamp, first.key, first.value) == (100, 1_005, b"key", b"value")
    assert first.headers == []
    assert (second.offset, second.key, second.value) == (107, b"", b"")
    assert second.headers == [("a", b"1"), ("é", None), ("\ufffd!", b"")]
    assert second.headers == second.headers
    assert "107" in repr(second)


def test_what_is_null(build: Any) -> None:
    body = b"\0" + raw.varint(0) + raw.varint(0) + raw.varint(-1) + raw.varint(-1) + raw.varint(0)
    (record,) = read(build, raw.varint(len(body)) + body, 1).take(0, MOST, MOST)
    assert (record.key, record.value, record.headers) == (None, None, [])


def test_the_append_time_is_every_record_s(build: Any) -> None:
    data = payload(raw.Record(b"1", b"v", time=3), raw.Record(b"1", b"v", time=4))
    records = build.LogRecords(data, 0, 2, 0, 1, 1_000, 77).take(0, MOST, MOST)
    assert [record.timestamp for record in records] == [77, 77]


@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_records_are_taken_bit_by_bit(build: Any, most: int) -> None:
    data = b"before" + payload(*[raw.Record(b"1", b"v" * n) for n in range(7)])
    records, found = read(build, data, 7, begin=6), []
    while records.left:
        taken = records.take(0, most, MOST)
        assert 0 < len(taken) <= most
        found += taken
    assert [record.offset for record in found] == list(range(100, 107))
    assert [record.value for record in found] == [b"v" * n for n in range(7)]
    assert records.take(0, most, MOST) == []


def test_the_record_that_reaches_the_limit_is_the_last(build: Any) -> None:
    data = payload(*[raw.Record(b"1", b"v" * 1000)] * 5)
    records = read(build, data, 5)
    assert len(records.take(0, MOST, 2500)) == 3
    assert records.taken_bytes == 3 * len(data) // 5
    assert len(records.take(0, MOST, 1)) == 1
    assert records.take(0, MOST, 0) == []
    assert records.left == 1


def test_a_start_in_the_middle(build: Any) -> None:
    records = read(build, payload(*[raw.Record(b"1", b"v")] * 5), 5)
    assert [record.offset for record in records.take(103, MOST, MOST)] == [103, 104]
    assert read(build, payload(raw.Record(b"1", b"v")), 1).take(101, MOST, MOST) == []


def malformed() -> dict[str, tuple[bytes, int]]:
    one, two = raw.Record(b"1", b"v"), payload(*[raw.Record(b"1", b"v")] * 2)
    headers = payload(raw.Record(b"1", b"v", headers=(("name", b"value"),)))
    long = raw.varint(1 << 40)
    return {
        "fewer than promised": (two, 3),
        "more than promised": (two, 1),
        "none promised": (two, 0),
        "a negative count": (b"", -1),
        "nothing": (b"", 1),
        "an empty record": (b"\0", 1),
        "a length below zero": (raw.varint(-5) + two, 2),
        "a length that lies": (raw.varint(10**9) + two[1:], 2),
        "an endless number": (b"\xff" * 30, 1),
        "a number over 64 bits": (raw.varint(20) + b"\0" + b"\xff" * 9 + b"\x7f" + bytes(20), 1),
        "a key that is too long": (two.replace(b"\x021", b"\x221"), 2),
        "a key of -2 bytes": (two.replace(b"\x021", b"\x031"), 2),
        "a record after its end": (payload(one).replace(b"\x10", b"\x0e", 1), 1),
        "the same offset twice": (payload(one, one._replace(delta=0)), 2),
        "an offset that goes back": (payload(one._replace(delta=1), one._replace(delta=0)), 2),
        "an offset after the last": (payload(one, one._replace(delta=2)), 2),
        "an offset before the first": (payload(one._replace(delta=-1)), 1),
        "a time out of this world": (payload(one._replace(time=1 << 62)), 1),
        "too many headers": (headers.replace(b"\x02\x08name", b"\x04\x08name"), 1),
        "headers without end": (headers.replace(b"\x02\x08name", b"\xfe\xff\xff\xff\x0fme"), 1),
        "fewer than no headers": (payload(one)[:-1] + b"\x01", 1),
        "a header without a name": (headers.replace(b"\x08name", b"\x01name"), 1),
        "a header with a long value": (headers.replace(b"\x0avalue", long), 1),
    }


@pytest.mark.parametrize(("data", "count"), malformed().values(), ids=malformed().keys())
def test_what_is_not_as_promised(build: Any, data: bytes, count: int) -> None:
    with pytest.raises(build.MalformedBatch):
        read(build, data, count)


def test_a_time_of_the_batch_out_of_this_world(build: Any) -> None:
    data = payload(raw.Record(b"1", b"v"))
    for time in (1 << 62, -(1 << 62)):
        with pytest.raises(build.MalformedBatch):
            build.LogRecords(data, 0, 1, 0, 0, time, -1)


def test_any_bytes_are_read_alike_or_refused_alike() -> None:
    """Whatever the bytes are, no build reads outside them; each cut is refused."""
    rng = random.Random(7)
    records = [raw.Record(b"k%d" % n, b"v" * n, headers=(("h", b"x"),) * (n % 3)) for n in range(9)]
    data = payload(*records)
    for cut in range(len(data)):
        for build in BUILDS.values():
            with pytest.raises(build.MalformedBatch):
                read(build, data[:cut], 9)
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        assert len({_outcome(build, bytes(changed)) for build in BUILDS.values()}) == 1


def _outcome(build: Any, data: bytes) -> object:
    try:
        records = read(build, data, 9).take(0, MOST, MOST)
    except build.MalformedBatch:
        return None
    return tuple((r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records)
