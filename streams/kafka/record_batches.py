"""Keeps fetched record batches as bytes, and reads their records only when these are taken.

- A batch is unpacked, within the unpacker's limit, only when its first record is taken.
- A batch that cannot be read becomes one `UnreadBatch`. Whether it can be read depends on its bytes
  alone: it is checked as a whole, so every owner who reads the log sees the same records.
- A wrong checksum may come from damage in transit, so `is_damaged` says to fetch the bytes again.
  With `distrust`, such a batch becomes an `UnreadBatch` if it is the one at the position.
- Aborted transactions and control records are skipped; `position` moves past them. They have
  batches of their own, so they leave no gap.
- Offsets that no batch has, and batches with fewer records than offsets, are left by compaction and
  nothing else: a broker takes no batch whose header does not count its records. `gaps` has these.
  A batch's first offset is not covered by its checksum. So the first gap is asked for again, like a
  batch with a wrong checksum, unless `trusts_gaps`. Queries that are missing are passed over.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from readstates.schemas.log_records import Checksum, LogRecords, MalformedBatch

from ..errors import BatchTooLargeError, UnpackError
from ..partition.batch import UnreadBatch
from . import unpack
from .delivery import MESSAGE_BYTES_MAX

WORK_BYTES_MAX = 4 << 20  # unpacked for one `take`; the batch that reaches it is the last
UNREAD_BYTES_MAX = MESSAGE_BYTES_MAX + 1  # kept of an unread batch; a longer dead letter is cut
# How many times its own size a batch can unpack to, by codec, before it turns out to be unreadable:
# the codec's format allows no more.
EXPANSION = {unpack.GZIP: 1032, unpack.SNAPPY: 32, unpack.LZ4: 255, unpack.ZSTD: 32 << 10}

FORMAT = 2  # of batches, since Kafka 0.11; the older ones are not read, and Kafka 4 has none
CODEC, APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20  # bits of the attributes
CODECS = range(5)  # none, gzip, snappy, lz4, zstd
ABORT = 0  # the type of a control record that ends an aborted transaction
LENGTH_END = 12  # where the offset and the length end; the length counts what follows
FORMAT_AT = 16
CODEC_AT = 22  # the lower byte of the attributes
CHECKED_FROM = 21  # where the bytes that the checksum covers begin
RECORDS_AT = 61
_HEAD = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">qi")

_checksum = Checksum()


class BatchHead(NamedTuple):
    """The fields in front of a batch's records."""

    first: int
    length: int
    leader_epoch: int
    format: int
    checksum: int
    attributes: int
    last_delta: int
    base_time: int
    max_time: int
    producer: int
    producer_epoch: int
    sequence: int
    records: int


class Taken(NamedTuple):
    """What one `take` brought: records, and the batches among them that could not be read."""

    records: list[Any]  # `LogRecord`, and `UnreadBatch` if these are kept
    unread: list[UnreadBatch]
    size_bytes: int  # of the records as they are in the log, unpacked


class FetchedBatches:
    """The batches of one fetch of one partition, from `position` on.

    `last_stable`: where the readable log ended at the time of the fetch. `done` is set when nothing
    more is to be taken: because no bytes are left, or because the next batch `is_damaged`.
    """

    def __init__(
        self,
        raw: bytes,
        aborted: Iterable[tuple[int, int]],
        position: int,
        last_stable: int,
        unpacker: unpack.Unpacker,
        *,
        keep_unread: bool,
        distrust: bool = False,
        trusts_gaps: bool = False,
    ) -> None:
        self._trusts_gaps = trusts_gaps
        self.gaps: list[tuple[int, int]] = []  # what compaction took: from, up to
        self._raw, self._at = raw, 0
        self._aborts = deque(sorted(aborted, key=lambda abort: abort[1]))
        self._aborted: set[int] = set()  # producers whose transaction will be aborted
        self.position, self._start, self.last_stable = position, position, last_stable
        self._unpacker, self._keep_unread, self._distrust = unpacker, keep_unread, distrust
        self._open: LogRecords | None = None  # of the batch before `_at`
        self._open_from = self._open_last = 0
        self.unpacked_bytes = 0  # that the open batch holds beyond `raw`
        self.done = self.is_damaged = False

    @property
    def size_bytes(self) -> int:
        """How many bytes of memory this fetch takes."""
        return len(self._raw) + self.unpacked_bytes

    def take(self, records_max: int, bytes_max: int) -> Taken:
        """The next records. The record that reaches `bytes_max` is the last."""
        taken, size, work = Taken([], [], 0), 0, 0
        records, unread = taken.records, taken.unread
        while len(records) < records_max and size < bytes_max and work < WORK_BYTES_MAX:
            if self._open is None:
                try:
                    if not self._begin():
                        break
                except (MalformedBatch, UnpackError) as exc:
                    raw = self._raw[self._open_from : self._at]
                    unread.append(self._unread(raw, exc))
                    if self._keep_unread:
                        records.append(unread[-1])
                        size += len(unread[-1].raw)
                    work += self._wasted(raw, exc)
                    continue
                work += self._at - self._open_from + self.unpacked_bytes
                if self._open is None:
                    continue
            found = self._open.take(self.position, records_max - len(records), bytes_max - size)
            records += found
            size += self._open.taken_bytes
            if self._open.left == 0:
                self._end()
            elif found:
                self.position = found[-1].offset + 1
        self.done = self.is_damaged or (self._open is None and self._at >= len(self._raw))
        if self.done and self.position == self._start:
            self.is_damaged = True  # none of it is wanted: do not fetch the same again at once
        return Taken(records, unread, size)

    def forget_unpacked(self) -> None:
        """Give up the memory of an unpacked batch; it is unpacked again for its next record."""
        if self.unpacked_bytes:
            self._open, self._at, self.unpacked_bytes = None, self._open_from, 0

    def _begin(self) -> bool:
        """Open the next batch, or skip it; False if there is none or it is damaged.

        Raises MalformedBatch or UnpackError if it cannot be read; `_at` is then after it.
        """
        begin = self._at
        if len(self._raw) - begin < LENGTH_END:
            return self._cut_off()
        first, length = _LENGTH.unpack_from(self._raw, begin)
        end = begin + LENGTH_END + length
        if length <= FORMAT_AT - LENGTH_END or end > len(self._raw):
            return self._cut_off()
        if self._raw[begin + FORMAT_AT] != FORMAT or length < RECORDS_AT - LENGTH_END:
            self._open_from, self._at, self._open_last = begin, end, max(first, self.position)
            raise MalformedBatch(
                f"its format is {self._raw[begin + FORMAT_AT]}, and only {FORMAT} is read"
            )
        head = BatchHead._make(_HEAD.unpack_from(self._raw, begin))
        raw = self._raw[begin:end]
        is_right = _checksum.of(raw, CHECKED_FROM) == head.checksum
        is_behind_gap = self._keep_unread and first > self.position
        doubtful = not is_right or (is_behind_gap and not self._trusts_gaps)
        if doubtful and not (self._distrust and self.position == self._start):
            self.is_damaged = True
            return False
        self._open_from, self._at = begin, end
        self._open_last = head.first + head.last_delta
        if not is_right:
            self._open_last = self._believable(head)
            raise MalformedBatch("its checksum is wrong, however often it is fetched")
        if self._open_last < self.position:
            return True  # the batch is before the position: none of it is wanted
        if is_behind_gap:
            self._trusts_gaps = True
            self._note_gap(self.position, first)
        is_skipped = self._is_skipped(head, raw)
        if is_skipped or head.records == 0:  # compaction leaves empty batches
            if not is_skipped:
                self._note_gap(max(first, self.position), self._open_last + 1)
            self.position = max(self.position, self._open_last + 1)
            return True
        self._unpack(head, raw)
        return True

    def _unpack(self, head: BatchHead, raw: bytes) -> None:
        codec, data, begin = head.attributes & CODEC, raw, RECORDS_AT
        if codec not in CODECS:
            raise UnpackError(f"its codec has the number {codec}, which is unknown")
        if codec:
            data, begin = self._unpacker.unpacked(codec, memoryview(raw)[RECORDS_AT:]), 0
            self.unpacked_bytes = len(data)
        append_time = head.max_time if head.attributes & APPEND_TIME else -1
        try:
            self._open = LogRecords(
                data, begin, head.records, head.first, head.last_delta, head.base_time, append_time
            )
        except MalformedBatch:
            self.unpacked_bytes = 0
            raise
        if head.records <= head.last_delta and self._keep_unread:
            self._note_gaps_within(head, data, begin)

    def _note_gaps_within(self, head: BatchHead, data: bytes, begin: int) -> None:
        """Note the offsets from the position on for which a batch has no record."""
        records = LogRecords(data, begin, head.records, head.first, head.last_delta, 0, 0)
        expected = max(self.position, head.first)
        for record in records.take(expected, head.records, len(data)):
            self._note_gap(expected, record.offset)
            expected = record.offset + 1
        self._note_gap(expected, self._open_last + 1)

    def _note_gap(self, first: int, end: int) -> None:
        if first < end and self._keep_unread:
            self.gaps.append((first, end))

    def _is_skipped(self, head: BatchHead, raw: bytes) -> bool:
        """True for control records and for records of an aborted transaction."""
        while self._aborts and self._aborts[0][1] <= self._open_last:
            self._aborted.add(self._aborts.popleft()[0])
        if head.attributes & CONTROL:
            if _control_type(head, raw) == ABORT:
                self._aborted.discard(head.producer)
            return True
        return bool(head.attributes & TRANSACTIONAL) and head.producer in self._aborted

    def _unread(self, raw: bytes, exc: Exception) -> UnreadBatch:
        """Return what takes the place of the batch before `_at`."""
        (first,) = struct.unpack_from(">q", raw)
        last = max(self._open_last, self.position)
        self.position = last + 1
        time = struct.unpack_from(">q", raw, 35)[0] if len(raw) >= RECORDS_AT else 0
        return UnreadBatch(
            offset=last,
            timestamp=time,
            first=first,
            raw=raw[:UNREAD_BYTES_MAX],
            reason="too_large" if isinstance(exc, BatchTooLargeError) else "invalid_json",
            text=f"a batch of {len(raw)} bytes cannot be read: {exc}",
        )

    def _wasted(self, raw: bytes, exc: Exception) -> int:
        """The most bytes that may have been unpacked from a batch that cannot be read."""
        most = self._unpacker.bytes_max
        if isinstance(exc, BatchTooLargeError):
            return most
        codec = raw[CODEC_AT] & CODEC if len(raw) > CODEC_AT else 0  # an old format may be short
        return min(most, len(raw) * EXPANSION.get(codec, 1))

    def _believable(self, head: BatchHead) -> int:
        """The last offset of a batch whose header may be wrong; the next batch begins after it."""
        last = self._open_last
        is_possible = head.last_delta >= 0 and last < self.last_stable
        if len(self._raw) - self._at >= LENGTH_END:
            after, _length = _LENGTH.unpack_from(self._raw, self._at)
            before = max(int(after) - 1, self.position)
            return min(last, before) if is_possible else before
        return last if is_possible else max(head.first, self.position)

    def _cut_off(self) -> bool:
        """The rest is less than a batch: it belongs to the next fetch, or it is damaged."""
        self.is_damaged = self._at == 0 and len(self._raw) > 0
        self._at = len(self._raw)
        return False

    def _end(self) -> None:
        # a batch knows its last offset, even if compaction removed the last record
        self.position = max(self.position, self._open_last + 1)
        self._open, self.unpacked_bytes = None, 0


def _control_type(head: BatchHead, raw: bytes) -> int:
    """What the marker of a transaction says; -1 if that cannot be read."""
    try:
        records = LogRecords(raw, RECORDS_AT, head.records, 0, head.last_delta, 0, -1)
        (record,) = records.take(0, 1, 1)
        return int(struct.unpack_from(">hh", record.key)[1])
    except (MalformedBatch, ValueError, TypeError, struct.error):
        return -1
