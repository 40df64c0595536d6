"""Batches with header keys that are no UTF-8, as the fetcher reads them."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from readstates.streams.kafka.fetched_records import FetchedRecords
from readstates.streams.kafka.raw_batches import RawBatches

PLAIN, GZIP = 0, 1


class NotText:
    """A header key that no producer of ours could send."""

    def encode(self, _encoding: str) -> bytes:
        return b"bad\xff"


def batch(first: int, keys: list[Any], compression: int = PLAIN) -> bytes:
    """A record for each header key."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10**6,
    )
    for number, key in enumerate(keys):
        builder.append(number, 0, b"key", b"value", [(key, b"header")])
    made = builder.build()
    made[0:8] = first.to_bytes(8, "big")
    return bytes(made)


def read(raw: bytes, start: int = 0, most: int = 100) -> list[tuple[int, str]]:
    """(offset, header key) of what the fetcher makes of it."""
    place, batches = TopicPartition("t", 0), RawBatches(raw)
    records = FetchedRecords(place, batches, [], start, None, None, False, 1)
    found: list[Any] = []
    while not records.done:
        found += records.take(most)
    return [(record.offset, record.headers[0][0]) for record in found]


def read_by_aiokafka(raw: bytes) -> list[tuple[int, str]]:
    place = TopicPartition("t", 0)
    records = PartitionRecords(place, MemoryRecords(raw), [], 0, None, None, False, 1)
    return [(record.offset, record.headers[0][0]) for record in records]


@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("compression", [PLAIN, GZIP])
def test_a_header_key_that_is_no_text(compression: int, most: int) -> None:
    faulty = batch(2, ["c", NotText(), "é"], compression) + batch(5, ["d"], compression)
    raw = batch(0, ["a", "b"], compression) + faulty
    with pytest.raises(UnicodeDecodeError):
        read_by_aiokafka(raw)
    good = [(0, "a"), (1, "b"), (2, "c"), (3, "bad\ufffd"), (4, "é"), (5, "d")]
    assert read(raw, most=most) == good
    assert read(faulty, 4, most) == good[4:]


def test_the_same_for_batches_without_fault() -> None:
    raw = batch(0, ["a", "b"]) + batch(2, ["é"], GZIP)
    assert read(raw) == read_by_aiokafka(raw) == [(0, "a"), (1, "b"), (2, "é")]
