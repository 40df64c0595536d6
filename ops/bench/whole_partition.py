"""The service's own path of an update, a Partition over a full table; no Kafka, no Cassandra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import orjson
from readstates.streams.batch import Batch
from readstates.streams.config import Settings
from readstates.streams.partition import Effects, Partition
from readstates.streams.version import OFFSET_BITS


@dataclass(slots=True)
class Record:
    """What the partition reads of the consumer's record."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 0


class NoEffects:
    """Nothing happens: all users are resident, and nobody asks."""


def loaded(table: Any, users: list[int], channels: list[int], number: int) -> Callable[[], None]:
    """A partition with one ack a pair in its inbox, and what runs it to the end, slice by slice.

    The first ack has message ID and version `number` + 1.
    """
    epoch, start = number >> OFFSET_BITS, number & ((1 << OFFSET_BITS) - 1)
    records = []
    for index, (user_id, channel_id) in enumerate(zip(users, channels, strict=True)):
        ack = {
            "type": "ack",
            "user_id": str(user_id),
            "channel_id": str(channel_id),
            "message_id": str(number + index + 1),
        }
        records.append(Record(start + index, b"%d" % user_id, orjson.dumps(ack)))
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
        inbox_max=len(records) + 1,
        effects=cast(Effects, NoEffects()),
    )
    partition.take(Batch(start, records, start + len(records)))
    slice_updates = Settings().slice_updates

    def run() -> None:
        while partition.can_run:
            partition.run(slice_updates, 0)
        if partition.counts.applied != len(records):
            raise AssertionError(f"{len(records)} updates, of which applied: {partition.counts}")

    return run
