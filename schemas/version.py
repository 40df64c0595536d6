"""A version is an epoch and an offset in one number: `(epoch << 48) | (offset + 1)`.

It orders the changes of a read state, is Cassandra's write timestamp, and says in replies how far
a partition has been applied. 0 is "before everything".
"""

from __future__ import annotations

EPOCH_FIRST = 8  # 8 << 48 µs is the year 2041: an ordinary write timestamp never hides ours
OFFSET_BITS = 48
_OFFSET_MASK = (1 << OFFSET_BITS) - 1


def version_of(epoch: int, offset: int) -> int:
    """The version that the record at `offset` gives what it changes."""
    return (epoch << OFFSET_BITS) | (offset + 1)


def offset_of(version: int) -> int:
    """The offset of the record that made `version`."""
    return (version & _OFFSET_MASK) - 1
