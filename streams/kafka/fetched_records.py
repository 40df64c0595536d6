"""Reads the records that a fetch returned for a partition, batch by batch and only as asked for.

This takes the place of aiokafka's own reading of a fetch. Three things differ:

- A record is the object that aiokafka's compiled reader makes. aiokafka copies each into a
  `ConsumerRecord`, which adds topic, partition and sizes. That costs twice as much as the rest of
  reading the record, and a `Batch` already has topic and partition.
- A batch that cannot be read, or unpacks to more than `unpack.BATCH_BYTES_MAX`, becomes one
  `UnreadBatch` among the records. An exception would end the worker, again at each start.
- `take` stops once TAKEN_BYTES_MAX are unpacked, so that many small batches that unpack to a large
  size cost no more memory, and hold up the consumer's thread no longer, than a single one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from ..errors import BatchTooLargeError, UnpackError
from ..partition.batch import Skipped, UnreadBatch
from . import raw_batches, unpack

TAKEN_BYTES_MAX = 4 << 20  # unpacked for one `take`; the batch that reaches it is the last
NOT_READABLE = (UnpackError, CorruptRecordException, UnsupportedCodecError, ValueError)

unpacker = unpack.Unpacker()  # of the consumer's thread


class Taken(list[Any]):
    """Records, and the bytes of the batches that were begun for them."""

    size_bytes = 0


class FetchedRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The batches of a fetch. `next_fetch_offset`: the next one to read after the records taken."""

    next_fetch_offset: int

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._batch: Any = None  # the batch that is being read
        self._reading: Iterator[Any] | None = None  # of its records
        self.done = False

    def take(self, most: int) -> Taken:
        """Up to `most` of the next records; sets `done` at the fetch's end."""
        taken = Taken()
        while len(taken) < most and taken.size_bytes < TAKEN_BYTES_MAX:
            if self._batch is None:
                self._batch = next(self._records_iterator, None)
                if self._batch is None:
                    self.done = True
                    break
                taken.size_bytes += len(self._records.raw_batch())
            before = unpacker.total_bytes
            try:
                records = self._read(most - len(taken))
            except NOT_READABLE as exc:
                records = [self._unread(exc)]
                taken.size_bytes += unpack.BATCH_BYTES_MAX  # it was unpacked up to that limit
            taken.size_bytes += unpacker.total_bytes - before
            taken += records
        return taken

    def _read(self, most: int) -> list[Any]:
        """The next records of the batch."""
        try:
            if self._reading is None:
                self._reading = chain(self._batch)  # aiokafka's batch may be iterated only once
            records = list(islice(self._reading, most))
        except UnicodeDecodeError:
            self._reading = raw_batches.reread(self._records.raw_batch())
            records = list(islice(self._reading, most))
        ended = len(records) < most
        begin = self.next_fetch_offset
        if records:
            self.next_fetch_offset = records[-1].offset + 1
            if records[0].offset < begin:  # the fetch begins in the middle of a batch
                records = [record for record in records if record.offset >= begin]
        if ended:
            self._end_batch()
        self.next_fetch_offset = max(self.next_fetch_offset, begin)
        return records

    def _unread(self, exc: Exception) -> UnreadBatch:
        """Takes the place of the batch's records, except for those that were taken already."""
        raw, batch = self._records.raw_batch(), self._batch
        self._end_batch()
        return UnreadBatch(
            offset=batch.next_offset - 1,
            timestamp=getattr(batch, "max_timestamp", 0),
            first=int.from_bytes(raw[:8], "big"),
            raw=raw,
            reason="too_large" if isinstance(exc, BatchTooLargeError) else "invalid_json",
            text=f"a batch of {len(raw)} bytes cannot be read: {exc}",
        )

    def _end_batch(self) -> None:
        # a batch knows its last offset, even if compaction removed the last record
        self.next_fetch_offset = self._batch.next_offset
        self._batch = self._reading = None

    def _unpack_records(self) -> Iterator[Any]:
        """The batches that have records to take, in place of the records themselves."""
        committed = self._isolation_level == fetcher.READ_COMMITTED
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():  # fetched again from the position
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            aborted = False
            if committed and batch.producer_id is not None:
                self._consume_aborted_up_to(batch.base_offset)
                if batch.is_control_batch and self._contains_abort_marker(batch):
                    self._aborted_producers.discard(batch.producer_id)
                aborted = batch.is_transactional and batch.producer_id in self._aborted_producers
            if aborted or batch.is_control_batch:
                self.next_fetch_offset = batch.next_offset
            else:
                yield batch


class Result(fetcher.FetchResult):  # type: ignore[misc]
    """A fetch in the fetcher's buffer."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """As aiokafka's, by `FetchedRecords.take`."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        records = self._partition_records
        taken: Taken = records.take(max_records or sys.maxsize)
        self._update_position()
        if records.done:
            self._partition_records = None
        return taken


def behind_unreadable(raw: bytes, offset: int, unpacker: unpack.Unpacker) -> Skipped | None:
    """What to skip if another reader cannot read the batch that holds `offset`.

    Skip that batch, and the batches right after it that `unpacker` cannot unpack: each would hold
    up the other reader for as long as the first. `raw`: the log from `offset` on, as a broker sent
    it. None if `raw` has no whole batch.
    """
    batches, end, count = raw_batches.RawBatches(raw), None, 0
    while batches.has_next():
        batch = batches.next_batch()
        if end is not None and _fits(batch, batches.raw_batch(), unpacker):
            break
        if batch.next_offset > offset:
            end, count = batch.next_offset, count + 1
    return None if end is None else Skipped(end, count)


def _fits(batch: Any, raw: bytes, unpacker: unpack.Unpacker) -> bool:
    if raw[raw_batches.MAGIC_AT] < raw_batches.MAGIC_WITH_HEADERS:
        return True
    try:
        unpacker.unpacked(batch.compression_type, memoryview(raw)[raw_batches.RECORDS_AT :])
    except UnpackError:
        return False
    return True


def install() -> None:
    """Make aiokafka's fetcher read this way."""
    unpack.install(unpacker)
    fetcher.MemoryRecords = raw_batches.RawBatches
    fetcher.PartitionRecords = FetchedRecords
    fetcher.FetchResult = Result
