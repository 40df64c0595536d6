"""What a load must know of a user's rows before the table takes them."""

from __future__ import annotations

from collections.abc import Sequence

from readstates.cache.layout import EXTENSION_ENTRIES
from readstates.schemas.read_state import (
    CHANNEL,
    ENTRY_BYTES,
    EXTRA,
    LAST_MESSAGE,
    LAST_VIEWED,
    VERSION,
    Row,
)


def without_unfinished_mark(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows without the mark of a final deletion that has not removed all older rows.

    Only a part of that write reached the database before its owner died, so the event will be
    folded again. It must not be skipped then as one that came after the deletion.
    """
    mark = next((row for row in rows if row[CHANNEL] == 0), None)
    if mark is None or all(row[VERSION] >= mark[VERSION] for row in rows):
        return rows
    return [row for row in rows if row is not mark]


def floor_of(rows: Sequence[Row], version: int) -> int:
    """The version from which deltas of a user with these rows are safe, loaded at `version`.

    In a replay a row may be newer than that. One that replies do not have may have been shown
    until its own version, and a delta cannot say that it is gone.
    """
    hidden = (row[VERSION] for row in rows if not any(row[LAST_MESSAGE : LAST_VIEWED + 1]))
    return max(version, *hidden, 0)


def newest_of(rows: Sequence[Row]) -> int:
    """The largest version in the rows; 0 if there are none."""
    return max((row[VERSION] for row in rows), default=0)


def slots_of(rows: Sequence[Row]) -> int:
    """How many slots a user with these rows takes: its own, the rows' and their entries'."""
    slots = 1 + len(rows)
    for row in rows:
        if row[EXTRA]:
            slots += -(-len(row[EXTRA]) // (ENTRY_BYTES * EXTENSION_ENTRIES))
    return slots
