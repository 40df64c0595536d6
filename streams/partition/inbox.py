"""Batches of updates that were fetched and are not folded yet.

P1: records are taken in the order of the log, each exactly once, without an unexplained gap.
"""

from __future__ import annotations

from collections import deque

from ..errors import BatchGapError
from .batch import Batch


class Inbox:
    """See the module. The next record to fold is `batches[0].records[index]`."""

    def __init__(self, number: int, position: int) -> None:
        self._number = number
        self.next_arrival = position
        self.batches: deque[Batch] = deque()
        self.index = 0
        self.records = 0  # not taken yet
        self.size_bytes = 0  # of `batches`
        self._at_end = False  # the last batch taken whole reached the log's end

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.batches)

    @property
    def log_ended(self) -> bool:
        """True if everything is folded, up to the log's end as the broker last reported it."""
        return self._at_end and not self.batches

    def add(self, batch: Batch) -> None:
        """Put a batch behind the others. Raises BatchGapError if it is not the next one."""
        if batch.start != self.next_arrival:  # P1
            raise BatchGapError(
                f"partition {self._number}: a batch begins at offset {batch.start}, expected "
                f"{self.next_arrival}: records on the way from Kafka were lost or repeated. "
                "The worker stops; a restart replays from the committed offset."
            )
        self.next_arrival = batch.end
        self.batches.append(batch)
        self.records += len(batch.records)
        self.size_bytes += batch.size_bytes

    def drop_first(self) -> Batch:
        """Remove the first batch: all of its records were taken."""
        batch = self.batches.popleft()
        self.size_bytes -= batch.size_bytes
        self.index = 0
        self._at_end = batch.last
        return batch

    def check(self, position: int) -> None:
        """Assert P1 and the counts; `position` is the partition's."""
        records = sum(len(batch.records) for batch in self.batches) - self.index
        assert self.records == records, f"P1: {self.records} records counted, {records} there"
        size = sum(batch.size_bytes for batch in self.batches)
        assert self.size_bytes == size, f"{self.size_bytes} bytes counted, {size} there"
        expected = position
        for batch in self.batches:
            if batch is self.batches[0] and self.index:
                taken = batch.records[self.index - 1].offset + 1
                assert position == taken, f"P1: the position is {position}, {taken} is next"
            else:
                assert batch.start == expected, f"P1: a batch begins at {batch.start}"
            expected = batch.end
        assert self.next_arrival == expected, f"P1: {self.next_arrival} is expected from Kafka"
