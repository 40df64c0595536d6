"""What the transport hands to the agents: records in the order of the log, and where they stand."""

from __future__ import annotations

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Records of one partition, and the positions around them.

    A record has offset, timestamp, key, value and headers: see fetched.py and query_reader.py.
    """

    start: int  # the partition's position before these records
    records: list[Any]  # may be empty (control records only)
    end: int  # the position after them: the next offset to be fetched
    taken_ns: int = 0  # when they came off the consumer, time.perf_counter_ns()
    last: bool = False  # that was the log's end when the broker sent them


Poll = list[tuple[int, Batch]]  # what one poll brought of one topic: (partition, batch)
