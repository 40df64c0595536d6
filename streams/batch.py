"""What the transport hands to the agents: records in the order of the log, and where they stand."""

from __future__ import annotations

from typing import Any, NamedTuple


class UnreadBatch(NamedTuple):
    """A batch of the log that cannot be read, among the records as one that will be refused.

    It has no key and no value, so nothing takes it for an update. `offset` is the batch's last: it
    is held until the dead letter is kept, and the position is behind it once it was taken.
    """

    offset: int
    timestamp: int
    first: int  # its first offset
    raw: bytes  # as it stands in the log
    reason: str  # of schemas/dead_letters.py
    text: str
    key: None = None
    value: None = None
    headers: tuple[()] = ()


class Skipped(NamedTuple):
    """Batches of the log that are passed over without being read."""

    end: int  # the offset behind them
    batches: int


class Batch(NamedTuple):
    """Records of one partition, and the positions around them.

    A record has offset, timestamp, key, value and headers: see fetched.py and query_reader.py.
    """

    start: int  # the partition's position before these records
    records: list[Any]  # may be empty (control records only)
    end: int  # the position after them: the next offset to be fetched
    taken_ns: int = 0  # when they came off the consumer, time.perf_counter_ns()
    last: bool = False  # that was the log's end when the broker sent them
    size_bytes: int = 0  # of the log's batches that were begun for them, unpacked


Poll = list[tuple[int, Batch]]  # what one poll brought of one topic: (partition, batch)
