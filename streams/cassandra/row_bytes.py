"""Packs changes into the bytes of a BATCH message of Cassandra's native protocol.

A row has thirteen values, and the driver packs each of them twice: as a value, then into the
message. Here one `struct` packs a whole row with the lengths of its values, in about a sixth of the
time, unless the row has marks that its other columns do not say.

BATCH (native_protocol_v4.spec, 4.1.7) is <type><n><query 1>…<query n><consistency><flags>. A query
is <kind = 1, prepared><short: length of its ID><ID><short: number of values>, then each value as
<int: its length><its bytes>. The types are those of `schemas/read_states.cql`. A list is <int: how
many><each as a value>.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from readstates.schemas.read_state import Row, mentions_of

Change = tuple[int, int, Row | None]  # user_id, version, row; see Store.write

# The length of a value comes before it: a bigint has 8 bytes, an int 4, a smallint 2.
_FIELDS = ">iqihiqiqiqiqiqiqiiiq"  # from the user to the version
_INSERT_BEGIN = struct.Struct(_FIELDS).pack
_INSERT_NO_MENTION = struct.Struct(f"{_FIELDS}iiiiq").pack
_INSERT_ONE_MENTION = struct.Struct(f"{_FIELDS}iiiiqiq").pack
_DELETE = struct.Struct(">iqiqihiq").pack
_DELETE_USER = struct.Struct(">iqiq").pack
INSERT_VALUES, DELETE_VALUES, DELETE_USER_VALUES = 13, 4, 2


class Packed(NamedTuple):
    """The queries of a batch: how many, and all their bytes."""

    queries: int
    body: bytes


class RowBytes:
    """Packs changes for three prepared statements, given by their IDs.

    INSERT: user, the ten values of Row, mentions, timestamp.
    DELETE: timestamp, user, type, channel. DELETE of a user: timestamp, user.

    A row's timestamp is its version. The deletion of a user has that of the version before: what is
    older goes, and the mark of a final deletion, a row of the same version, stays (a deletion wins
    over a value of its own timestamp).
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
                add(_DELETE_USER(8, version - 1, 8, user_id))
                continue
            kind, channel, message, mention, count, pins, flags, viewed, _, extra = row
            if version < 0:
                add(self._delete)
                add(_DELETE(8, -version, 8, user_id, 2, kind, 8, channel))
                continue
            add(self._insert)
            if extra:
                add(_INSERT_BEGIN(
                    8, user_id, 2, kind, 8, channel, 8, message, 8, mention, 8, count,
                    8, pins, 8, flags, 4, viewed, 8, version,
                ))  # fmt: skip
                add(_insert_end(version, extra, mentions_of(row)))
            elif count:
                add(_INSERT_ONE_MENTION(
                    8, user_id, 2, kind, 8, channel, 8, message, 8, mention, 8, count,
                    8, pins, 8, flags, 4, viewed, 8, version, 0, 16, 1, 8, mention, 8, version,
                ))  # fmt: skip
            else:
                add(_INSERT_NO_MENTION(
                    8, user_id, 2, kind, 8, channel, 8, message, 8, mention, 8, count,
                    8, pins, 8, flags, 4, viewed, 8, version, 0, 4, 0, 8, version,
                ))  # fmt: skip
        return Packed(len(changes), b"".join(parts))


def _insert_end(version: int, extra: bytes, mentions: list[int]) -> bytes:
    """The marks, the mentions and the timestamp of an INSERT."""
    count = len(mentions)
    elements = [part for message_id in mentions for part in (8, message_id)]
    return struct.pack(
        f">i{len(extra)}sii{'iq' * count}iq",
        len(extra), extra, 4 + 12 * count, count, *elements, 8, version,
    )  # fmt: skip


def _head(query_id: bytes, values: int) -> bytes:
    """The bytes before the values of a prepared statement."""
    return struct.pack(f">BH{len(query_id)}sH", 1, len(query_id), query_id, values)
