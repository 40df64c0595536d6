"""Runs the service's own path of an update, from the bytes of a fetch into a full table.

It uses aiokafka's compiled reader and a Partition, but no Kafka, Cassandra or event loop.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, cast

import orjson
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from readstates.schemas.version import OFFSET_BITS
from readstates.streams.config import Settings
from readstates.streams.kafka.fetched_records import FetchedRecords
from readstates.streams.kafka.raw_batches import RawBatches
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.decode_buffer import DecodeBuffer
from readstates.streams.partition.effects import Effects
from readstates.streams.partition.partition import Partition

FETCH = 1_000  # records of a batch
PLACE = TopicPartition("read-states.updates", 0)


class NoEffects:
    """Effects that do nothing, because all users are resident and nobody asks."""


def loaded(table: Any, users: list[int], channels: list[int], number: int) -> Callable[[], None]:
    """A partition with one ack per pair in its inbox, and a function that runs it to the end.

    The first ack has message ID and version `number` + 1.
    """
    epoch, start = number >> OFFSET_BITS, number & ((1 << OFFSET_BITS) - 1)
    batches: list[tuple[int, int, bytes]] = []  # start, end, the bytes
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 1 << 24)
    count = len(users)
    for index, (user_id, channel_id) in enumerate(zip(users, channels, strict=True)):
        ack = {
            "type": "ack",
            "user_id": str(user_id),
            "channel_id": str(channel_id),
            "message_id": str(number + index + 1),
        }
        builder.append(index % FETCH, 0, b"%d" % user_id, orjson.dumps(ack), [])
        if index % FETCH == FETCH - 1 or index == count - 1:
            begin, end = start + index - index % FETCH, start + index + 1
            made = begin.to_bytes(8, "big") + bytes(builder.build())[8:]  # its base offset is first
            batches.append((begin, end, made))
            builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 1 << 24)
    partition = Partition(
        0,
        table=table,
        position=start,
        committed=start,
        catch_up_to=start,
        epoch=epoch,
        partitions=1,
        incarnation=1,
        parked_max=1000,
        parked_bytes_max=1 << 40,
        inbox_max=count + 1,
        inbox_bytes_max=1 << 40,
        reader=DecodeBuffer(),
        effects=cast(Effects, NoEffects()),
    )
    slice_updates = Settings().slice_updates
    gc.collect()
    gc.freeze()  # as the worker does at its start; what the bench keeps is then not scanned

    def run() -> None:
        for begin, end, made in batches:
            found = FetchedRecords(PLACE, RawBatches(made), [], begin, None, None, False, 0)
            partition.take(Batch(begin, [*found.take(FETCH)], end))
            while partition.can_run:
                partition.run(slice_updates, 0)
        if partition.counts.applied != count:
            raise AssertionError(f"{count} updates, of which applied: {partition.counts}")

    return run
