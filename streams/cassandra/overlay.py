"""What a candidate sees of a user: the rows that live workers wrote, under those of its own.

A candidate folds the same log as the live workers, and writes only to the overlay, the table
`read_states_candidate`. A deletion cannot take a row out of `read_states`, so the overlay keeps it
as a marked row. The mark of a deleted user has type ALL_DELETED and channel 0.

V1: of a read state's row in the base and its row in the overlay, the one with the larger version
    counts; at the same version it is the overlay's, which this candidate wrote. A marked row is one
    of the two like any other: it hides what is older, and something newer hides it.
V2: the deletion of a user hides the base's rows with a version below its own. (It removes the
    overlay's rows, as it does in the base.) The mark of a final deletion has the deletion's own
    version, so it stays; and so does what came later.
V3: everything below a commit of the candidate's is in one of the two tables. `rollout start` sets
    the first commits to those of the live group, and what is below them is in the base. A row of
    the overlay ends after OVERLAY_TTL_S; the live workers have written it to the base by then.

The base may be ahead of the candidate. Then a load brings rows of a version that the candidate has
not reached: it folds on until there, skips what these rows have, and answers nobody from them
before (`Loading.ahead`). It cannot see what the live workers have deleted in advance, so its reply
may lack a read state that was there at the reply's version, and is gone soon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from readstates.schemas.read_state import Row

ALL_DELETED = -1  # as a read_state_type
OVERLAY_TTL_S = 7 * 86_400
USER_MARK: Row = (ALL_DELETED, 0, 0, 0, 0, 0, 0, 0, 0, b"")  # its version is that of the change
# As they are selected, after the user and the columns of a Row: see `overlay_rows`.
MARKED = "deleted, WRITETIME(deleted)"


class Overlaid(NamedTuple):
    """A row of the overlay. `row` is None if it marks a deletion."""

    key: tuple[int, int]  # read_state_type, channel_id
    version: int
    row: Row | None


def overlay_rows(rows: Iterable[Sequence[Any]], by_user: dict[int, list[Overlaid]]) -> None:
    """Append selected rows to the lists of their users.

    Every write sets `deleted`, so its write time is the version of the newest of them. An older
    write may have left the other columns of a marked row, which then mean nothing.
    """
    for user_id, *row, deleted, written in rows:
        kept = None if deleted else tuple(row)
        by_user[user_id].append(Overlaid((row[0], row[1]), written, kept))


def merged(base: Sequence[Row], overlay: Sequence[Overlaid]) -> list[Row]:
    """A user's rows, by type and channel (V1, V2). O(rows × log rows)."""
    if not overlay:
        return list(base)
    all_deleted = max((one.version for one in overlay if one.key[0] == ALL_DELETED), default=0)
    found: dict[tuple[int, int], tuple[int, Row | None]] = {
        row[:2]: (row[8], row) for row in base if row[8] >= all_deleted
    }
    for key, version, row in overlay:
        if key[0] != ALL_DELETED and version >= found.get(key, (0, None))[0]:
            found[key] = version, row
    return [row for _, (_, row) in sorted(found.items()) if row is not None]
