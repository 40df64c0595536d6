"""What the transport hands to the agents: records in the order of the log, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Record(Protocol):
    """A record of the log, whichever client read it: see fetched.py and query_reader.py."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...  # ms since the epoch
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Batch(NamedTuple):
    """Records of one partition, and the positions around them."""

    start: int  # the partition's position before these records
    records: list[Any]  # each a Record; may be empty (control records only)
    end: int  # the position after them: the next offset to be fetched
    taken_ns: int = 0  # when they came off the consumer, time.perf_counter_ns()
    last: bool = False  # that was the log's end when the broker sent them


Poll = list[tuple[int, Batch]]  # what one poll brought of one topic: (partition, batch)
