"""Runs the service's own path of an update, from the bytes of a fetch into a full table.

It uses the reader's batches and a Partition, but no Kafka, Cassandra or event loop.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, cast

import orjson

from readstates.schemas.version import OFFSET_BITS
from readstates.streams.config import Settings
from readstates.streams.kafka.record_batches import FetchedBatches
from readstates.streams.kafka.unpack import Unpacker
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.decode_buffer import DecodeBuffer
from readstates.streams.partition.effects import Effects
from readstates.streams.partition.partition import Partition

from .record_batch import record_batch

FETCH = 1_000  # records of a batch
BYTES_MAX = 1 << 30


class NoEffects:
    """Effects that do nothing, because all users are resident and nobody asks."""


def loaded(table: Any, users: list[int], channels: list[int], number: int) -> Callable[[], None]:
    """A partition with one ack per pair in its inbox, and a function that runs it to the end.

    The first ack has message ID and version `number` + 1.
    """
    epoch, start = number >> OFFSET_BITS, number & ((1 << OFFSET_BITS) - 1)
    batches: list[tuple[int, int, bytes]] = []  # start, end, the bytes
    unpacker, count = Unpacker(), len(users)
    acks: list[tuple[bytes, bytes]] = []
    for index, (user_id, channel_id) in enumerate(zip(users, channels, strict=True)):
        ack = {
            "type": "ack",
            "user_id": str(user_id),
            "channel_id": str(channel_id),
            "message_id": str(number + index + 1),
        }
        acks.append((b"%d" % user_id, orjson.dumps(ack)))
        if len(acks) == FETCH or index == count - 1:
            begin, end = start + index + 1 - len(acks), start + index + 1
            batches.append((begin, end, record_batch(begin, acks)))
            acks = []
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
            found = FetchedBatches(made, (), begin, end, unpacker, keep_unread=True)
            partition.take(Batch(begin, found.take(FETCH, BYTES_MAX).records, end))
            while partition.can_run:
                partition.run(slice_updates, 0)
        if partition.counts.applied != count:
            raise AssertionError(f"{count} updates, of which applied: {partition.counts}")

    return run
