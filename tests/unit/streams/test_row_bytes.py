"""Batches as bytes: the same as the driver makes of the same values."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from cassandra import ConsistencyLevel, ProtocolVersion
from cassandra.protocol import BatchMessage
from cassandra.query import BatchType

from readstates.schemas.read_state import ReadState, Row
from readstates.streams.cassandra.driver import PackedBatch, Protocol
from readstates.streams.cassandra.row_bytes import RowBytes

INSERT, DELETE, DELETE_USER = b"insert-id", b"delete", b"user"
BIG = 2**63 - 1
ROW = ReadState(255, BIG, BIG - 1, 7, 2**32 - 1, 2**48 - 1, 2**32 - 2, 65535, 0)


def q(value: int) -> bytes:
    return struct.pack(">q", value)


def h(value: int) -> bytes:
    return struct.pack(">h", value)


def by_the_driver(version: int) -> list[tuple[bool, bytes, tuple[bytes, ...]]]:
    """The same three changes, value by value."""
    names = ("last_message_id", "last_mention_id", "mention_count", "last_pin_timestamp", "flags")
    fields = [q(getattr(ROW, name)) for name in names]
    viewed = struct.pack(">i", ROW.last_viewed)
    values = (q(5), h(255), q(BIG), *fields, viewed, q(version), q(version))
    return [
        (True, INSERT, values),
        (True, DELETE, (q(version), q(5), h(255), q(BIG))),
        (True, DELETE_USER, (q(version), q(6))),
    ]


@pytest.mark.parametrize("protocol", [ProtocolVersion.V4, ProtocolVersion.V5])
def test_the_bytes_are_those_that_the_driver_makes(protocol: int) -> None:
    version = (8 << 48) | 3
    packed = RowBytes(INSERT, DELETE, DELETE_USER).pack(
        [(5, version, ROW), (5, -version, ROW), (6, version, None)]
    )
    theirs, ours = (
        BatchMessage(BatchType.UNLOGGED, queries, ConsistencyLevel.LOCAL_QUORUM)
        for queries in (by_the_driver(version), packed)
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


@pytest.mark.parametrize(
    "row", [ROW._replace(channel_id=2**63), ROW._replace(read_state_type=-(2**15) - 1)]
)
def test_what_does_not_fit_is_not_sent(row: Row) -> None:
    with pytest.raises(struct.error):
        RowBytes(INSERT, DELETE, DELETE_USER).pack([(5, 1, row)])
