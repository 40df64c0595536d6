"""A query on its way from the consumer to its reply, and the time it has for that."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from readstates.schemas.headers import ReplyAddress
from readstates.schemas.queries import Get

# An error goes out before the deadline: ERROR_MARGIN_MS before it, or ERROR_MARGIN_SHARE of the
# time left if that is less. But at least ERROR_MARGIN_MIN_MS before it, which is two passes of the
# loop that looks at the deadlines, or half of the time left if that is less.
ERROR_MARGIN_MS = 500
ERROR_MARGIN_SHARE = 0.2
ERROR_MARGIN_MIN_MS = 40
QUERY_BYTES, ID_BYTES = 1_000, 40  # the memory of a query, and of each channel that it names
SWEEP_MIN = 1024  # entries; below this, entries of finished queries are not swept out


@dataclass(slots=True, eq=False)
class Query:
    """One query with its reply address; compared by identity."""

    get: Get
    address: ReplyAddress
    key: bytes
    partition: int
    incarnation: int
    offset: int
    timestamp_ms: int
    deadline_ms: int
    taken_ns: int
    size_bytes: int = field(init=False)
    waiting: bool = False  # True while it counts among the queries held back
    waits_for_store: bool = False  # its user is being loaded
    done: bool = False

    def __post_init__(self) -> None:
        ids = self.get.channel_ids or ()
        correlation_id = self.address.correlation_id or b""
        self.size_bytes = QUERY_BYTES + ID_BYTES * len(ids) + len(correlation_id)

    @property
    def is_probe(self) -> bool:
        """True for a query of the worker itself (schemas/probes.py); clients' queries count."""
        return self.get.user_id < 0


class Deadlines:
    """Waiting queries by the moment their error must go out. O(log n) for each."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Query]] = []
        self._count = itertools.count()
        self._sweep_at = SWEEP_MIN

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, query: Query, now_ms: int) -> None:
        """Watch a query that could not be answered at once."""
        left = max(0, query.deadline_ms - now_ms)
        margin = min(ERROR_MARGIN_MS, int(left * ERROR_MARGIN_SHARE))
        margin = max(margin, min(ERROR_MARGIN_MIN_MS, left // 2))
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if not entry[2].done]
            heapq.heapify(self._heap)
            self._sweep_at = max(SWEEP_MIN, 2 * len(self._heap))
        heapq.heappush(self._heap, (query.deadline_ms - margin, next(self._count), query))

    def due(self, now_ms: int) -> Iterator[Query]:
        """The queries whose error must go out now, and that are not done yet."""
        while self._heap and (self._heap[0][0] <= now_ms or self._heap[0][2].done):
            query = heapq.heappop(self._heap)[2]
            if not query.done:
                yield query
