"""Makes a Row of what a SELECT returns, also if an earlier version of the service wrote it.

Every write of the service has all columns and one timestamp, the version. An earlier version has no
`marks`: it leaves them null, or as they were written before. So marks whose write time is not the
row's version do not count. Then nobody knows which messages the row's `mention_count` counts: they
are `uncounted` up to its last mention. Workers of both versions may thus share a group.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from readstates.cache.marks import TAG_SHIFT, UNCOUNTED
from readstates.schemas.read_state import Row

# The columns of a Row, as they are inserted; and as they are selected, for `add_rows`.
COLUMNS = (
    "read_state_type, channel_id, last_message_id, last_mention_id, mention_count, "
    "last_pin_timestamp, flags, last_viewed, version, marks"
)
SELECTED = f"user_id, {COLUMNS}, WRITETIME(marks)"

_ENTRY = struct.Struct("=qQ").pack


def add_rows(rows: Iterable[tuple[Any, ...]], by_user: dict[int, list[Row]]) -> None:
    """Append rows of `SELECTED` to the lists of their users. For each row of every load: hot."""
    for row in rows:
        if row[11] == row[9]:
            by_user[row[0]].append(row[1:11])
        else:
            by_user[row[0]].append(_without_marks(row))


def user_and_row(row: tuple[Any, ...]) -> tuple[int, Row]:
    """The same for one row of `SELECTED`."""
    by_user: dict[int, list[Row]] = {row[0]: []}
    add_rows((row,), by_user)
    return row[0], by_user[row[0]][0]


def _without_marks(row: tuple[Any, ...]) -> Row:
    """A row that an earlier version wrote."""
    _, kind, channel, message, mention, count, pins, flags, viewed, version, _, _ = row
    extra = b""
    if count:
        extra = _ENTRY(max(mention, message, 1), UNCOUNTED << TAG_SHIFT | count)
    return kind, channel, message, 0, count, pins, flags, viewed, version, extra
