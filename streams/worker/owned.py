"""A partition that this worker owns, with its table file and its progress in Kafka."""

from __future__ import annotations

from dataclasses import dataclass

from readstates.cache.tablefile import TableFile

from ..partition.partition import Partition
from ..partition.watermark import Watermark


@dataclass(slots=True)
class OwnedPartition:
    """The partition, its table file, and how far its queries have been read and answered."""

    partition: Partition
    file: TableFile
    query_position: int  # the next offset of queries to be taken
    query_mark: Watermark  # held by the queries that are not finished
    committed: tuple[int, int] | None = None  # offsets of updates and queries committed last
    clock_ahead_ms: int = 0  # of our clock before the broker's, when queries were taken last

    def is_open(self, token: int) -> bool:
        """True if what was read for the incarnation `token` is still to be taken."""
        return self.partition.incarnation == token and not self.partition.closing
