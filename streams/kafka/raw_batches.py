"""Reads Kafka's record batches as raw bytes, even if header keys are not UTF-8.

aiokafka decodes header keys as it reads a batch, and a key that is not UTF-8 makes it raise, again
at every start: a producer of one such record could stop the service for good. Such a batch is
read a second time, by aiokafka's reader in plain Python, with the key's wrong bytes replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

LENGTH_AT, LENGTH_BYTES = 8, 4  # of a batch, which begins with offset and length
MAGIC_AT, MAGIC_WITH_HEADERS = 16, 2  # its format; this one has been written since Kafka 0.11
RECORDS_AT = 61  # where the records begin in that format


class _Text(bytes):
    def decode(self, *_args: Any, **_kwargs: Any) -> str:
        return super().decode("utf-8", errors="replace")


class _Buffer(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        return _Text(value) if isinstance(index, slice) else value


def reread(raw: bytes) -> Iterator[Any]:
    """The records of a batch with header keys that are not text, from its first record on."""
    batch = _DefaultRecordBatchPy(raw)  # only this format has headers
    batch._maybe_uncompress()
    batch._buffer = _Buffer(batch._buffer)
    return iter(batch)


class RawBatches:
    """aiokafka's `MemoryRecords`, which also has the bytes of the batch that it returned last."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._records, self._begin, self._end = raw, MemoryRecords(raw), 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if batch is not None:
            self._begin = self._end
            at = self._begin + LENGTH_AT
            length = int.from_bytes(self._raw[at : at + LENGTH_BYTES], "big")
            self._end = at + LENGTH_BYTES + length
        return batch

    def raw_batch(self) -> bytes:
        return self._raw[self._begin : self._end]
