"""Moving the group's commits back, so that workers fold a part of the log again.

For a database that was put back to an older state, from a backup: what the log has since then is
folded on top of it. Going too far back is always safe, since a row skips what it already has; so
commits move back only, never forward, which would leave updates out. Table files are newer than
the database then and must go first: a worker that finds its table goes on from there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from ..config import Settings
from ..errors import RewindError
from .options import (
    KAFKA_ONLY,
    SettingsCommand,
    errors_as_messages,
    settings_of,
    with_settings,
)


class Step(NamedTuple):
    """One partition's commit: where it was, and where it is now."""

    partition: int
    before: int
    after: int


def rewind(
    settings: Settings, *, to_ms: int | None = None, to_offset: int | None = None,
    only: int | None = None,
) -> list[Step]:  # fmt: skip
    """Move the commits of `updates` back to the first record at `to_ms` or to `to_offset`.

    `to_ms`: broker time, ms since the epoch. `only`: this partition, else all of them. A partition
    without a commit is left out: a worker begins it at the log's start anyway. Raises RewindError
    where workers run, or where the log no longer has that offset.
    """
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
    from confluent_kafka.admin import OffsetSpec

    from ..kafka.admin import connect_admin
    from ..kafka.topics import TIMEOUT_S, commits, describe
    from .new_epoch import no_workers

    client = connect_admin(settings)
    topic = describe(client, settings.updates_topic)
    no_workers(client, settings, RewindError)
    places = [
        TopicPartition(settings.updates_topic, number)
        for number in range(topic.partitions)
        if only in (None, number)
    ]
    starts = client.list_offsets({place: OffsetSpec.earliest() for place in places})
    if to_ms is not None:
        found = client.list_offsets({p: OffsetSpec.for_timestamp(to_ms) for p in places})
        wanted = {
            place.partition: future.result(TIMEOUT_S).offset for place, future in found.items()
        }
    else:
        wanted = dict.fromkeys((place.partition for place in places), to_offset or 0)
    steps = []
    for place in commits(settings, places):
        number, before, after = place.partition, place.offset, wanted[place.partition]
        if before < 0:
            continue
        start = starts[TopicPartition(place.topic, number)].result(TIMEOUT_S).offset
        if to_ms is None and after < start:
            raise RewindError(
                f"{place.topic} partition {number} begins at offset {start}: what was before is "
                f"gone. Rewind to {start}, or put back a later backup"
            )
        if 0 <= after < before:  # -1: no record is as late as that
            steps.append(Step(number, before, after))
    if steps:
        moved = [TopicPartition(settings.updates_topic, s.partition, s.after) for s in steps]
        request = [ConsumerGroupTopicPartitions(settings.kafka_group, moved)]
        (done,) = client.alter_consumer_group_offsets(request).values()
        done.result(TIMEOUT_S)
    return steps


@click.command("rewind", cls=SettingsCommand)
@click.option(
    "--to-time",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    help="Go back to the first record at this time or later, in UTC.",
)
@click.option("--to-offset", type=int, help="Go back to this offset; needs --partition.")
@click.option("--partition", type=int, help="Only this partition.  [default: all]")
@with_settings(*KAFKA_ONLY, "kafka_group")
def command(
    to_time: datetime | None, to_offset: int | None, partition: int | None, **flags: Any
) -> None:
    """Replay updates from an earlier time or offset, after a database restore.

    First stop all workers and delete their table files. Going too far back is safe: a row skips
    what it already has. Commits move back only.
    """
    if (to_time is None) == (to_offset is None):
        raise click.UsageError("give one of --to-time and --to-offset")
    if to_offset is not None and partition is None:
        raise click.UsageError("--to-offset needs --partition: each has offsets of its own")
    to_ms = None if to_time is None else int(to_time.replace(tzinfo=UTC).timestamp() * 1000)
    settings = settings_of(flags)
    with errors_as_messages():
        steps = rewind(settings, to_ms=to_ms, to_offset=to_offset, only=partition)
    for step in steps:
        click.echo(f"partition {step.partition}: {step.before} -> {step.after}")
    click.echo(f"{sum(s.before - s.after for s in steps)} records will be folded again")
