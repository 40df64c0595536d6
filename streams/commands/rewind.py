"""Moves the group's commits back, so that workers fold a part of the log again.

For a database that was lost, or put back to an older state, there is `readstates restore`. Here the
workers fold the later part of the log on top of what there is. Going too far back is safe within
the epoch, because a row skips what it already has; going below the epoch's first offset is refused
(E1 in `cassandra/epochs.py`). Commits only move back, because moving them forward would leave
updates out; but a commit that somebody put below the first offset by hand moves up to it. All
commits lose their metadata, because it names the database that was there before. Table files are
then newer than the commits and must be deleted first, because a worker that finds its table
continues from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import click

from ..cassandra.epochs import Log, present_log
from ..config import Settings
from ..errors import RewindError
from .options import CASSANDRA, KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings


class Step(NamedTuple):
    """One partition's commit: its old offset, and its new one."""

    partition: int
    before: int
    after: int


def rewind(
    settings: Settings, *, to_ms: int | None = None, to_offset: int | None = None,
    only: int | None = None,
) -> list[Step]:  # fmt: skip
    """Move the commits of `updates` back: to the first record at `to_ms`, or to `to_offset`.

    `to_ms`: broker time in ms since 1970. Without either, the commits move to the beginning of the
    present epoch, or of the log if that is later. `only`: move this partition only. A partition
    without a commit is left out, because a worker begins it at the epoch's beginning anyway. Raises
    RewindError and moves nothing if workers run, or if the log or the epoch begins later.
    """
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import OffsetSpec

    from ..cassandra.store import logs_of
    from ..kafka.admin import connect_admin
    from ..kafka.group_commits import commits_of, no_workers, offsets, set_commits
    from ..kafka.restore_fence import refuse_while_restoring
    from ..kafka.topics import describe

    client = connect_admin(settings)
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
    committed = commits_of(settings, name, topic.partitions)
    refuse_while_restoring(settings, committed, RewindError)
    before = {number: committed[number][0] for number in numbers}
    found = (
        step_of(name, number, before[number], after, start, log)
        for number, after, start in zip(numbers, wanted, starts, strict=True)
    )
    steps = [one for one in found if one is not None]
    offsets_now = before | {step.partition: step.after for step in steps}
    moved = {number: (offset, "") for number, offset in offsets_now.items() if offset >= 0}
    if moved:
        set_commits(client, settings, name, moved, RewindError)
    return steps


def step_of(
    name: str, number: int, before: int, wanted: int | None, start: int, log: Log
) -> Step | None:
    """The move of the commit `before` of a partition; None if it stays, or is none (below 0).

    `wanted`: the offset asked for; None for the epoch's beginning; below 0 if no record is that
    late. `start`: the log's first offset. Raises RewindError if the commit may not go there.
    """
    first = log.first_offsets[number]
    begin = max(first, start)
    after = begin if wanted is None else wanted
    if before < 0 or after < 0:
        return None
    if after < first:
        raise RewindError(
            f"{name} partition {number}: {log.said} begins at offset {first}, and you ask for "
            f"{after}. The records below it were written to Cassandra in an earlier epoch, as "
            "records of other partitions or of another topic. If they were folded again, they "
            "would be taken for new ones: manual acks and deletions would take effect again. "
            "Nothing was moved. To go back as far as possible, run: "
            "readstates rewind --to-epoch-start. For a backup from before the epoch, run: "
            "readstates restore"
        )
    if after < start:
        raise RewindError(
            f"{name} partition {number} begins at offset {start}: earlier records are gone. Rewind "
            f"to {start}, or put a later backup back and run: readstates restore"
        )
    if before < first:  # nobody knows where it was before somebody moved it
        return Step(number, before, begin)
    return Step(number, before, after) if after < before else None


@click.command("rewind", cls=SettingsCommand)
@click.option(
    "--to-time",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    help="Go back to the first record at or after this time, in UTC.",
)
@click.option(
    "--to-offset", type=click.IntRange(0), help="Go back to this offset; needs --partition."
)
@click.option(
    "--to-epoch-start",
    is_flag=True,
    help="Go back to the first record of the present epoch that the log still has.",
)
@click.option("--partition", type=int, help="Move only this partition.  [default: all]")
@with_settings(*KAFKA_ONLY, "kafka_group", *CASSANDRA)
def command(
    settings: Settings,
    to_time: datetime | None,
    to_offset: int | None,
    to_epoch_start: bool,
    partition: int | None,
) -> None:
    """Make workers read the updates again from an earlier time or offset.

    If the database is lost, or replaced by a backup, run `readstates restore` instead. First stop
    all workers and delete their table files. Going back too far does no harm, because workers skip
    updates that Cassandra already has. The command refuses to go back to an earlier epoch (before a
    change of the topic or its partitions). It moves a commit forward in only one case: if somebody
    has set the commit below the epoch's first offset, the command sets it to that offset.
    """
    if [to_time is None, to_offset is None, not to_epoch_start].count(False) != 1:
        raise click.UsageError("give one of --to-time, --to-offset and --to-epoch-start")
    if to_offset is not None and partition is None:
        raise click.UsageError("--to-offset needs --partition: each partition has its own offsets")
    to_ms = None if to_time is None else int(to_time.replace(tzinfo=UTC).timestamp() * 1000)
    if to_time is not None and to_time.replace(tzinfo=UTC) > datetime.now(UTC):
        raise click.UsageError(
            f"{to_time:%Y-%m-%dT%H:%M:%S} is in the future: it is {datetime.now(UTC):%H:%M:%S} UTC "
            "now, and --to-time is in UTC, not in local time"
        )
    with errors_as_messages():
        steps = rewind(settings, to_ms=to_ms, to_offset=to_offset, only=partition)
    for step in steps:
        up = ", where the epoch begins" if step.after > step.before else ""
        click.echo(f"partition {step.partition}: {step.before} -> {step.after}{up}")
    again = sum(max(0, step.before - step.after) for step in steps)
    if not steps:
        click.echo("no commit was moved: every one is already there or before, or there is none")
    click.echo(f"{again} records will be folded again")
    if again:
        click.echo(
            "Table files that outlive their workers must be deleted before you start the workers, "
            "on every host: a worker that finds its table continues from there. In Kubernetes they "
            "are gone with the pods"
        )
