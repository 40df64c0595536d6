"""The batches that a reader hands to its agent: records in log order, with positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Record(Protocol):
    """A record of a topic: `LogRecord` of `schemas/log_records.py`."""

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


class UnreadBatch(NamedTuple):
    """A batch of the log that cannot be read, as one record that will be rejected.

    It has no key and no value, so nothing takes it for an update. `offset` is the batch's last one.
    It is held until the broker has the dead letter, and the position moves past it once the batch
    has been taken.
    """

    offset: int
    timestamp: int
    first: int  # its first offset
    raw: bytes  # as it is in the log
    reason: str  # one of schemas/dead_letters.py
    text: str
    key: None = None
    value: None = None
    headers: tuple[()] = ()


class Batch(NamedTuple):
    """Records of one partition, and the positions around them."""

    start: int  # the partition's position before these records
    records: Sequence[Record]  # a list; empty if the log had only control records
    end: int  # the position after them: the next offset to be fetched
    taken_ns: int = 0  # time.perf_counter_ns() when the reader took them
    last: bool = False  # `end` was the log's end when the broker sent them
    size_bytes: int = 0  # of the records as they are in the log, unpacked


Poll = list[tuple[int, int, Batch]]  # what a reader delivers at once: partition, token, batch
