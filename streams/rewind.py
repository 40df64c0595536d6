"""Moving the group's commits back, so that workers fold a part of the log again.

For a database that was put back to an older state, from a backup: what the log has since then is
folded on top of it. Going too far back is safe within the epoch, since a row skips what it already
has; below the epoch's first offset it is refused (E1 in `streams/epochs.py`). Commits move back
only, never forward, which would leave updates out. One that somebody put below the first offset by
hand moves up to it. Table files are newer than the database then and must go first: a worker that
finds its table goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import OffsetSpec
from readstates.streams.cassandra import logs_of
from readstates.streams.config import Settings
from readstates.streams.epochs import Log, present_log
from readstates.streams.errors import RewindError
from readstates.streams.new_epoch import no_workers, offsets
from readstates.streams.security import connect
from readstates.streams.topics import TIMEOUT_S, commits, describe


class Step(NamedTuple):
    """One partition's commit: where it was, and where it is now."""

    partition: int
    before: int
    after: int


def rewind(
    settings: Settings, *, to_ms: int | None = None, to_offset: int | None = None,
    only: int | None = None,
) -> list[Step]:  # fmt: skip
    """Move the commits of `updates` back: to the first record at `to_ms`, or to `to_offset`.

    `to_ms`: broker time, ms since the epoch of Unix. Without either: to where the present epoch
    begins, or the log where that is later. `only`: this partition, else all of them. A partition
    without a commit is left out: a worker begins it where the epoch begins anyway. Raises
    RewindError, with nothing moved, where workers run, or where the log or the epoch begins later.
    """
    client = connect(settings)
    name = settings.updates_topic
    topic = describe(client, name)
    no_workers(client, settings, RewindError)
    log = present_log(logs_of(settings), name, *topic, settings.cassandra_keyspace)
    numbers = [number for number in range(topic.partitions) if only in (None, number)]
    places = [TopicPartition(name, number) for number in numbers]
    starts = offsets(client, places, OffsetSpec.earliest())
    wanted: Sequence[int | None]
    if to_ms is not None:
        wanted = offsets(client, places, OffsetSpec.for_timestamp(to_ms))
    else:
        wanted = [to_offset] * len(places)
    before = {place.partition: place.offset for place in commits(settings, places)}
    found = (
        step(name, number, before[number], after, start, log)
        for number, after, start in zip(numbers, wanted, starts, strict=True)
    )
    steps = [one for one in found if one is not None]
    if steps:
        moved = [TopicPartition(name, step.partition, step.after) for step in steps]
        request = [ConsumerGroupTopicPartitions(settings.kafka_group, moved)]
        (done,) = client.alter_consumer_group_offsets(request).values()
        done.result(TIMEOUT_S)
    return steps


def step(
    name: str, number: int, before: int, wanted: int | None, start: int, log: Log
) -> Step | None:
    """What is done to the commit `before` of a partition; None: it stays, or is none (below 0).

    `wanted`: the offset that is asked for, None: where the epoch begins, below 0: none, since no
    record is as late. `start`: where the log begins. Raises RewindError where it may not go there.
    """
    first = log.first_offsets[number]
    begin = max(first, start)
    after = begin if wanted is None else wanted
    if before < 0 or after < 0:
        return None
    if after < first:
        raise RewindError(
            f"{name} partition {number}: {log.said} begins at offset {first}, and you ask for "
            f"{after}. What is below was written to Cassandra in an earlier epoch, as records of "
            "other partitions or of another topic; folded again it would be taken for new, and "
            "mentions would be counted twice. Nothing was moved. As far back as it goes: "
            "readstates rewind --to-epoch-start. For a backup from before the epoch, see "
            "ops/runbooks/restore.md"
        )
    if after < start:
        raise RewindError(
            f"{name} partition {number} begins at offset {start}: what was before is gone. Rewind "
            f"to {start}, or put back a later backup"
        )
    if before < first:  # how far it was before somebody moved it there, nobody knows
        return Step(number, before, begin)
    return Step(number, before, after) if after < before else None
