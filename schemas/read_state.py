"""A read state as the service passes it: nine integers, in the order of the database's columns.

The table, the driver and the encoder make plain tuples, `Row`, since a named tuple costs twice as
much to make. A client gets `ReadState`, which has the names.
"""

from __future__ import annotations

from typing import NamedTuple

Row = tuple[int, int, int, int, int, int, int, int, int]

# The places in a Row.
TYPE = 0
CHANNEL = 1
LAST_MESSAGE = 2
LAST_MENTION = 3
MENTION_COUNT = 4
LAST_PIN_TIMESTAMP = 5
FLAGS = 6
LAST_VIEWED = 7
VERSION = 8


class ReadState(NamedTuple):
    """One read state with named fields; its places are those of a Row."""

    read_state_type: int
    channel_id: int
    last_message_id: int
    last_mention_id: int
    mention_count: int
    last_pin_timestamp: int  # ms since the epoch
    flags: int
    last_viewed: int  # days
    version: int
