"""Kafka's record batches, also with header keys that are not UTF-8.

aiokafka decodes header keys as it reads a batch, and a key that is no UTF-8 makes it raise, at
every start anew: whoever can write one record could stop the service for good. Here such a batch
is read a second time, by aiokafka's reader in plain Python, with the key's wrong bytes replaced.
The others cost one generator for each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

LENGTH_AT, LENGTH_BYTES = 8, 4  # of a batch, which begins with offset and length
MAGIC_AT, MAGIC_WITH_HEADERS = 16, 2


class _Text(bytes):
    def decode(self, *_args: Any, **_kwargs: Any) -> str:
        return super().decode("utf-8", errors="replace")


class _Buffer(bytearray):
    """Slices of it decode whatever they hold."""

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        return _Text(value) if isinstance(index, slice) else value


class _Batch:
    def __init__(self, batch: Any, raw: bytes, start: int) -> None:
        self._batch, self._raw, self._start = batch, raw, start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:
            if self._raw[self._start + MAGIC_AT] < MAGIC_WITH_HEADERS:
                raise
            again = _DefaultRecordBatchPy(self._raw[self._start : self._end()])
            again._maybe_uncompress()
            again._buffer = _Buffer(again._buffer)
            yield from again  # from the batch's start; the fetcher drops offsets it returned

    def _end(self) -> int:
        at = self._start + LENGTH_AT
        length = int.from_bytes(self._raw[at : at + LENGTH_BYTES], "big")
        return at + LENGTH_BYTES + length


class _Records:
    def __init__(self, raw: bytes) -> None:
        self._raw, self._records, self._at = raw, MemoryRecords(raw), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if batch is None:
            return None
        wrapped = _Batch(batch, self._raw, self._at)
        self._at = wrapped._end()
        return wrapped


def install() -> None:
    """Make aiokafka's fetcher read this way."""
    fetcher.MemoryRecords = _Records
