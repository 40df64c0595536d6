"""The offset below which everything is done, and so the only offset that is committed.

Unfinished work holds its record's offset: a change waiting to be written out or under way to
Cassandra, an update parked behind a load, a dead letter not yet acknowledged, a query not yet
answered. The watermark is the smallest held offset, or the next offset if nothing is held.

W1: position(next) <= every held offset.
W2: position never goes back, unless the log was replaced.

Offsets are counted in buckets of 2^BUCKET_BITS, so that millions of holds cost a few dozen
numbers. The watermark is therefore exact if nothing is held, and otherwise too low by less than one
bucket, which only means that a few records are replayed and skipped.
Cost: hold and release O(1); position O(1), but O(buckets held) after the lowest was released.
"""

from __future__ import annotations

BUCKET_BITS = 7


class Watermark:
    """See the module. `last` is the position that was given last."""

    def __init__(self, committed: int) -> None:
        self.last = committed
        self._held: dict[int, int] = {}  # bucket: how many holds
        self._count = 0
        self._low = -1  # the lowest bucket held; `position` corrects it after the bucket's release

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
        """Undo one hold of `offset`. Raises KeyError if its bucket has no hold."""
        bucket = offset >> BUCKET_BITS
        count = self._held[bucket] - 1
        self._count -= 1
        if count:
            self._held[bucket] = count
        else:
            del self._held[bucket]

    def begin_anew(self, position: int) -> None:
        """The log was replaced by another one, which is read from `position` on."""
        self.last = position

    def __len__(self) -> int:
        """How many holds there are."""
        return self._count

    def position(self, next_offset: int) -> int:
        """The offset that may be committed if `next_offset` is the next record to take."""
        if self._low not in self._held:
            self._low = min(self._held, default=-1)
        low = (self._low << BUCKET_BITS) if self._held else next_offset  # W1
        if low > self.last:  # W2
            self.last = min(low, next_offset)
        return self.last

    def covers(self, position: int) -> bool:
        """False if something in a bucket below `position` is held."""
        return not self._held or position >> BUCKET_BITS <= min(self._held)

    def check(self, next_offset: int) -> None:
        """Assert W1 and that the counts agree. `next_offset`: as for `position`."""
        assert self._count == sum(self._held.values()), "the holds and their count differ"
        assert all(count > 0 for count in self._held.values()), "an empty bucket is held"
        assert self._low not in self._held or self._low == min(self._held), "a lower one is held"
        assert self.covers(self.last), f"W1: {self.last} was given, and less is held"
        assert self.last <= next_offset, f"W1: {self.last} was given, and {next_offset} is next"
