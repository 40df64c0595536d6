"""Batches as bytes: the same as the driver makes of the same values."""

from __future__ import annotations

import random
import struct
from io import BytesIO
from typing import Any

import pytest
from cassandra import ConsistencyLevel, ProtocolVersion
from cassandra.cqltypes import BytesType, Int32Type, ListType, LongType, ShortType
from cassandra.protocol import BatchMessage
from cassandra.query import BatchType

from readstates.cache.marks import FOR_GOOD, MARK, MARKS_MAX, TAG_SHIFT, UNCOUNTED, UNREAD
from readstates.schemas.read_state import EXTRA, Row, mentions_of
from readstates.streams.cassandra.driver import PackedBatch, Protocol
from readstates.streams.cassandra.row_bytes import Change, RowBytes

INSERT, DELETE, DELETE_USER = b"insert-id", b"delete", b"user"
BIG = 2**63 - 1
VERSION = (8 << 48) | 3
ROW: Row = (255, BIG, BIG - 1, 0, 0, 2**48 - 1, 2**32 - 2, 65535, VERSION, b"")
ROW_TYPES = (
    ShortType, LongType, LongType, LongType, LongType, LongType, LongType, Int32Type, LongType,
    BytesType,
)  # fmt: skip
MANY = list(range(1, MARKS_MAX + 1))
LIST = ListType.apply_parameters([LongType])


def entries(*of: tuple[int, int, int]) -> bytes:
    """The form of Row's last element: tag, value, payload of each entry."""
    return b"".join(struct.pack("=qQ", value, tag << TAG_SHIFT | rank) for tag, value, rank in of)


def with_marks(mention: int, count: int, extra: bytes) -> Row:
    return (*ROW[:3], mention, count, *ROW[5:9], extra)


def by_the_driver(changes: list[Change], protocol: int) -> list[tuple[bool, bytes, list[bytes]]]:
    """The same changes, each value packed by the driver's own types."""

    def packed(*values: tuple[Any, Any]) -> list[bytes]:
        return [cql_type.to_binary(value, protocol) for cql_type, value in values]

    queries = []
    for user_id, version, row in changes:
        user = (LongType, user_id)
        if row is None:
            queries.append((True, DELETE_USER, packed((LongType, version - 1), user)))
        elif version < 0:
            key = (ShortType, row[0]), (LongType, row[1])
            queries.append((True, DELETE, packed((LongType, -version), user, *key)))
        else:
            columns = zip(ROW_TYPES, row, strict=True)
            end = (LIST, mentions_of(row)), (LongType, version)
            queries.append((True, INSERT, packed(user, *columns, *end)))
    return queries


def check(changes: list[Change], protocol: int) -> None:
    theirs, ours = (
        BatchMessage(BatchType.UNLOGGED, queries, ConsistencyLevel.LOCAL_QUORUM)
        for queries in (
            by_the_driver(changes, protocol),
            RowBytes(INSERT, DELETE, DELETE_USER).pack(changes),
        )
    )
    expected, got = (
        Protocol.encode_message(
            message, 1, protocol, compressor=None, allow_beta_protocol_version=False
        )
        for message in (theirs, ours)
    )
    assert got == expected
    assert type(theirs) is BatchMessage
    body = BytesIO()
    assert isinstance(ours, PackedBatch)
    ours.send_body(body, protocol)
    assert expected.endswith(body.getvalue())


protocols = pytest.mark.parametrize("protocol", [ProtocolVersion.V4, ProtocolVersion.V5])


@protocols
@pytest.mark.parametrize(
    ("row", "mentions"),
    [
        (ROW, []),
        (with_marks(BIG, 1, b""), [BIG]),
        (with_marks(0, 0, entries((UNREAD, VERSION, 0))), []),
        (with_marks(0, 2**32 - 1, entries((UNCOUNTED, BIG, 2**32 - 1))), []),
        (with_marks(7, 2, entries((MARK, 5, 0), (MARK, 7, 4), (MARK, 9, FOR_GOOD))), [5, 7]),
        (with_marks(MARKS_MAX, MARKS_MAX, entries(*((MARK, m, 0) for m in MANY))), MANY),
    ],
)
def test_the_bytes_are_those_that_the_driver_makes(
    row: Row, mentions: list[int], protocol: int
) -> None:
    assert mentions_of(row) == mentions
    check([(5, VERSION, row), (5, -VERSION, row), (6, VERSION, None)], protocol)


@protocols
def test_also_of_random_rows(protocol: int) -> None:
    draw = random.Random(22)
    changes: list[Change] = []
    for _ in range(300):
        ids = sorted(draw.sample(range(1, 10**6), draw.choice([0, 1, 2, 3, MARKS_MAX])))
        marks = [(MARK, each, draw.choice([0, 2, 3, FOR_GOOD])) for each in ids]
        mentioned = [each for _, each, rank in marks if not rank & 1]
        uncounted = draw.choice([0, 0, 5])
        more = [(UNCOUNTED, 1, uncounted)] if uncounted else []
        inline = not more and [rank for _, _, rank in marks] in ([], [0])
        version = VERSION + draw.randrange(2**40)
        row: Row = (
            draw.randrange(256), draw.randint(1, BIG), draw.randrange(BIG),
            max(mentioned, default=0), len(mentioned) + uncounted, draw.randrange(2**48),
            draw.randrange(2**32), draw.randrange(2**16), version,
            b"" if inline else entries(*marks, *more),
        )  # fmt: skip
        changes.append((draw.randint(1, BIG), version, row))
    assert {bool(row[EXTRA]) for _, _, row in changes if row} == {True, False}
    check(changes, protocol)


@pytest.mark.parametrize("row", [(0, 2**63, *ROW[2:]), (-(2**15) - 1, *ROW[1:])])
def test_what_does_not_fit_is_not_sent(row: Row) -> None:
    with pytest.raises(struct.error):
        RowBytes(INSERT, DELETE, DELETE_USER).pack([(5, 1, row)])
