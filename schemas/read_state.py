"""A read state as the service passes it: nine integers and bytes, in the order of the columns.

The table, the driver and the encoder make plain tuples, `Row`, since a named tuple costs twice as
much to make. A client gets `ReadState`, which has the names.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

Row = tuple[int, int, int, int, int, int, int, int, int, bytes]

# The places in a Row.
TYPE: Final = 0
CHANNEL: Final = 1
LAST_MESSAGE: Final = 2
LAST_MENTION: Final = 3
MENTION_COUNT: Final = 4
LAST_PIN_TIMESTAMP: Final = 5
FLAGS: Final = 6
LAST_VIEWED: Final = 7
VERSION: Final = 8
EXTRA: Final = (
    9  # what is remembered of single messages, in entries of 16 bytes: see cache/marks.py
)

_ENTRY = struct.Struct("=qQ")  # a message ID, and tag << 40 | rank; a mention has an even rank
ENTRY_BYTES = _ENTRY.size


class ReadState(NamedTuple):
    """One read state with named fields; its first nine places are those of a Row."""

    read_state_type: int
    channel_id: int
    last_message_id: int
    last_mention_id: int
    mention_count: int
    last_pin_timestamp: int  # ms since the epoch
    flags: int
    last_viewed: int  # days
    version: int
    mentions: tuple[int, ...] | None = None  # message IDs, ascending; None if not asked for


def mentions_of(row: Row) -> list[int]:
    """Message IDs of a read state's mentioned marks, ascending. O(marks)."""
    extra = row[EXTRA]
    if not extra:  # then its only mark, if there is one, is in the fields
        return [row[LAST_MENTION]] if row[MENTION_COUNT] else []
    return [
        message_id
        for message_id, info in _ENTRY.iter_unpack(extra)
        if not info >> 40 and not info & 1
    ]
