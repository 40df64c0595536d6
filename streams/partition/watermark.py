"""The offset below which everything is done, and so the only offset that is committed.

Whatever is not yet done holds its record's offset: a change waiting to be written out or under
way to Cassandra, an update parked behind a load, a dead letter not yet acknowledged, a query not
yet answered. The watermark is the smallest held offset, or the next offset where nothing is held.

W1: position(next) <= every held offset.
W2: position never goes back.

Offsets are counted in buckets of 2^BUCKET_BITS, so that millions of holds cost a few dozen
numbers; the watermark is therefore exact when nothing is held, and otherwise low by less than one
bucket, which only means that a few records are replayed and skipped.
Cost: hold and release O(1); position O(1), but O(buckets held) after the lowest one went.
"""

from __future__ import annotations

BUCKET_BITS = 7


class Watermark:
    def __init__(self, committed: int) -> None:
        self._position = committed
        self._held: dict[int, int] = {}
        self._count = 0
        self._low = -1  # the lowest bucket held, unless it is not held any more

    def hold(self, offset: int) -> None:
        """Keep the watermark at or below `offset` until it is released as often as held."""
        bucket = offset >> BUCKET_BITS
        self._count += 1
        if bucket in self._held:
            self._held[bucket] += 1
        else:
            self._held[bucket] = 1
            self._low = min(self._low, bucket)

    def release(self, offset: int) -> None:
        """Undo one hold of `offset`. Raises KeyError where none of its bucket is held."""
        bucket = offset >> BUCKET_BITS
        count = self._held[bucket] - 1
        self._count -= 1
        if count:
            self._held[bucket] = count
        else:
            del self._held[bucket]

    def __len__(self) -> int:
        """How many holds there are."""
        return self._count

    @property
    def idle(self) -> bool:
        """True while nothing is held."""
        return not self._held

    def position(self, next_offset: int) -> int:
        """What may be committed when `next_offset` is the next record to be taken."""
        if self._low not in self._held:
            self._low = min(self._held, default=-1)
        low = (self._low << BUCKET_BITS) if self._held else next_offset
        if low > self._position:
            self._position = min(low, next_offset)
        return self._position
