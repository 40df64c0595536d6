"""Tracks a partition's position in its log, and the records that are not finished.

`position` is the next offset to take. A record before it is unfinished in one of two ways:
  - Its change is in the table and not yet in Cassandra. It holds the watermark, so that no commit
    passes it. A later run of the same table finds the change there.
  - It is not in the table either: it is parked, or its dead letter is not acknowledged. It also
    holds the position that is kept in the table, so that a later run takes the record again.

P3: a held offset is released when, and only when, its update needs no more work: it changed
    nothing, or its change is in Cassandra, or its dead letter was acknowledged.
P6: the position in the table never passes an update that must be folded again after a crash:
    one that is parked, or whose dead letter is not acknowledged. It is never behind a commit.
P7: the users found dirty at the start hold the committed offset until each has been written.
P8: nothing is answered and nothing is written out before the group knows by a commit that this
    owner is at work. If the owner crashed before that commit, the metadata would still have the
    clean position of the previous owner, and the next owner would not know that the database may be
    ahead.
"""

from __future__ import annotations

from readstates.cache.table import Table
from readstates.schemas.version import OFFSET_BITS

from .watermark import Watermark


class Progress:
    """See the module. `epoch_bits` is the epoch's part of a version."""

    def __init__(
        self,
        table: Table,
        *,
        position: int,
        committed: int,
        catch_up_to: int,
        epoch: int,
        told_to: int | None = None,
    ) -> None:
        self._table = table
        self.position = position
        self.catch_up_to = catch_up_to  # the last owner's position, or the log's end
        self.live_committed = False  # P8
        self.epoch_bits = epoch << OFFSET_BITS
        self.watermark = Watermark(committed)
        self._unfolded = Watermark(committed)  # P6
        # Held by what the change feed has not acknowledged; None if there is no feed.
        self.feed_mark = None if told_to is None else Watermark(told_to)
        for _ in range(table.recover(self.epoch_bits | (committed + 1))):
            self.watermark.hold(committed)  # P7: the offsets of their changes are not known

    @property
    def version(self) -> int:
        """The version up to which the partition has been folded."""
        return self.epoch_bits | self.position

    @property
    def caught_up(self) -> bool:
        """True once queries may be answered: the last owner's position has been passed."""
        return self.live_committed and self.position >= self.catch_up_to

    def hold(self, offset: int) -> None:
        """Note that the record at `offset` is neither in the table nor finished."""
        self.watermark.hold(offset)
        self._unfolded.hold(offset)

    def release(self, offset: int) -> None:
        """Note that the record is finished, or that its change holds the watermark by itself."""
        self.watermark.release(offset)  # P3: every caller is one of its three cases
        self._unfolded.release(offset)

    def store(self) -> None:
        """Store in the table the position from which a later run may continue."""
        self._table.position = self._unfolded.position(self.position)  # P6

    def committable(self) -> int:
        """The offset that may be committed for the updates topic."""
        self.store()  # P6: never behind a commit
        durable = self.watermark.position(self.position)
        told = self.told_to()
        return durable if told is None else min(durable, told)  # F2

    def told_to(self) -> int | None:
        """The offset below which every change is in the feed; None if there is no feed.

        A record that is not folded yet may still change something.
        """
        if self.feed_mark is None:
            return None
        return self.feed_mark.position(self._unfolded.position(self.position))

    def check(self, unfolded: int, unwritten: int) -> None:
        """Assert P3, P6 and the order of positions, given how many records are unfinished.

        `unfolded` records are not in the table; `unwritten` holds are for changes not in Cassandra.
        """
        assert len(self._unfolded) == unfolded, f"P6: {len(self._unfolded)} holds, not {unfolded}"
        held = unfolded + unwritten
        assert len(self.watermark) == held, f"P3: {len(self.watermark)} holds, not {held}"
        self.watermark.check(self.position)
        self._unfolded.check(self.position)
        stored = self._table.position
        assert self.watermark.last <= stored <= self.position, "P6: not between commit and position"
        assert self._unfolded.covers(stored), f"P6: {stored} in the table passes an unfolded update"
