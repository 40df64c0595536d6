"""Makes room in the table, and stalls the partition if there is none.

A table whose cold end is all dirty has no room until something is written out. The partition is
then stalled: it takes no further slice, and the write-out starts with the coldest users.
"""

from __future__ import annotations

from readstates.cache.table import Table

EVICT_SCAN_MAX = 512  # users looked at from the cold end in one call of the table


class Room:
    """Makes room in a table; `stalled` after a failure, until something is written out."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.stalled = False

    def make(self, slots: int, keep: int) -> bool:
        """Evict until `slots` are free, but never evict `keep`; False if the partition is stalled.

        Goes on while it helps, because a stall with nothing to write out would never end.
        """
        table, before = self._table, -1
        while table.free > before:
            before = table.free
            if table.evict(slots, EVICT_SCAN_MAX, keep):
                return True
        self.stalled = True
        return False

    def make_for_refused(self, slots: int, keep: int) -> bool:
        """The same for `keep`, whose change found no room, so one slot more than are free.

        Otherwise a count of slots that is too small would have the change refused for ever.
        """
        return self.make(max(slots, self._table.free + 1), keep)

    def end_stall(self) -> None:
        """Record that something was written out: whatever needed room may be tried again."""
        self.stalled = False
