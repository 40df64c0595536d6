"""Packs changes into the bytes of a BATCH message of Cassandra's native protocol.

A row has eleven values, and the driver packs each of them twice: as a value, then into the message.
Here one `struct` packs a whole row with the lengths of its values, in about a sixth of the time.

BATCH (native_protocol_v4.spec, 4.1.7) is <type><n><query 1>…<query n><consistency><flags>. A query
is <kind = 1, prepared><short: length of its ID><ID><short: number of values>, then each value as
<int: its length><its bytes>. The types are those of `schemas/read_states.cql`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from readstates.schemas.read_state import Row

Change = tuple[int, int, Row | None]  # user_id, version, row; see Store.write

# Each value is preceded by its length: a bigint has 8 bytes, an int 4, a smallint 2.
_INSERT = struct.Struct(">iqihiqiqiqiqiqiqiiiqiq").pack
_DELETE = struct.Struct(">iqiqihiq").pack
_DELETE_USER = struct.Struct(">iqiq").pack
INSERT_VALUES, DELETE_VALUES, DELETE_USER_VALUES = 11, 4, 2


class Packed(NamedTuple):
    """The queries of a batch: how many, and all their bytes."""

    queries: int
    body: bytes


class RowBytes:
    """Packs changes for three prepared statements, given by their IDs.

    INSERT: user, type, channel, the six fields in the order of Row, version, timestamp.
    DELETE: timestamp, user, type, channel. DELETE of a user: timestamp, user.
    """

    def __init__(self, insert_id: bytes, delete_id: bytes, delete_user_id: bytes) -> None:
        self._insert = _head(insert_id, INSERT_VALUES)
        self._delete = _head(delete_id, DELETE_VALUES)
        self._delete_user = _head(delete_user_id, DELETE_USER_VALUES)

    def pack(self, changes: Sequence[Change]) -> Packed:
        """Raises struct.error if a value does not fit its type."""
        parts: list[bytes] = []
        add = parts.append
        for user_id, version, row in changes:
            if row is None:
                add(self._delete_user)
                add(_DELETE_USER(8, version, 8, user_id))
                continue
            kind, channel, message, mention, count, pins, flags, viewed, _ = row
            if version < 0:
                add(self._delete)
                add(_DELETE(8, -version, 8, user_id, 2, kind, 8, channel))
                continue
            add(self._insert)
            add(_INSERT(
                8, user_id, 2, kind, 8, channel, 8, message, 8, mention, 8, count,
                8, pins, 8, flags, 4, viewed, 8, version, 8, version,
            ))  # fmt: skip
        return Packed(len(changes), b"".join(parts))


def _head(query_id: bytes, values: int) -> bytes:
    """The bytes before the values of a prepared statement."""
    return struct.pack(f">BH{len(query_id)}sH", 1, len(query_id), query_id, values)
