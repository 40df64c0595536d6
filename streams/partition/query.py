"""A query on its way from the consumer to its reply, and the time it has for that."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

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


class Query:
    """One query with its reply address; compared by identity."""

    __slots__ = (
        "address",
        "deadline_ms",
        "done",
        "get",
        "incarnation",
        "key",
        "offset",
        "partition",
        "size_bytes",
        "taken_ns",
        "timestamp_ms",
        "waiting",
        "waits_for_store",
    )

    def __init__(
        self,
        get: Get,
        address: ReplyAddress,
        *,
        key: bytes,
        partition: int,
        incarnation: int,
        offset: int,
        timestamp_ms: int,
        deadline_ms: int,
        taken_ns: int,
    ) -> None:
        self.get = get
        self.address = address
        self.key = key
        self.partition = partition
        self.incarnation = incarnation
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.deadline_ms = deadline_ms
        self.taken_ns = taken_ns
        ids = get.channel_ids or ()
        self.size_bytes = QUERY_BYTES + ID_BYTES * len(ids) + len(address.correlation_id or b"")
        self.waiting = False  # True while it counts among the queries held back
        self.waits_for_store = False  # its user is being loaded
        self.done = False


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
