"""What `readstates status` calls wrong: one sentence each, with what to do if that is known."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from ..cassandra.database import Database
from ..config import Settings
from ..deviations import DATABASE_REPLACED
from ..kafka.restore_fence import is_restoring, unfinished
from .status_asking import UNKNOWN, KafkaStatus, LogStatus, PartitionStatus, overdue_s

STABLE = "STABLE"
AHEAD_MS = 1_000  # a record that is this far in the future shows that a clock is wrong
SILENT_MS = 60_000  # an owner sends a record to each of its partitions every 10 s


def problems_of(
    settings: Settings, kafka: KafkaStatus | None, cassandra: LogStatus | None
) -> Iterator[str]:
    """The problems, one sentence each, with what to do if that is known."""
    if kafka is not None:
        yield from kafka.problems
        known = kafka.group_state != UNKNOWN
        if known and not kafka.members:
            yield f"group {settings.kafka_group} has no members: no worker is running"
        elif known and kafka.group_state != STABLE:
            yield f"group {settings.kafka_group} is {kafka.group_state}: partitions are moving"
        epoch = _epoch(kafka, cassandra)
        yield from _problems_of_servers(settings, kafka, known)
        yield from _problems_of_overdue(settings, kafka)
        for one in kafka.partitions:
            yield from _problems_of_clocks(settings, one)
            yield from _problems_of_commit(settings, one, epoch)
        yield from _problems_of_database(settings, kafka, cassandra)
    if cassandra is not None:
        yield from _problems_of_log(settings, kafka, cassandra)


def _problems_of_database(
    settings: Settings, kafka: KafkaStatus, log: LogStatus | None
) -> Iterator[str]:
    if log is None or log.epoch is None:
        return
    if any(is_restoring(one.written_to) for one in kafka.partitions):
        yield f"{unfinished()}. Until then, workers refuse to start"
        return
    database_id = uuid.UUID(log.database_id) if log.database_id else None
    found = Database(log.epoch, database_id, log.began_us)
    moved = [n.number for n in kafka.partitions if found.is_other_than(n.written_to)]
    if moved:
        yield (
            f"deviation {DATABASE_REPLACED}: the commits of {settings.updates_topic} {said(moved)} "
            f"were made over another database than "
            f"{settings.cassandra_keyspace} is: workers refuse to open them. See "
            "ops/runbooks/ReadStatesDeviation.md"
        )


def _epoch(kafka: KafkaStatus, cassandra: LogStatus | None) -> LogStatus | None:
    """The database's epoch, if it is this topic's and its first offsets are known."""
    here = (kafka.topic_id, len(kafka.partitions))
    if cassandra is None or here != (cassandra.topic_id, cassandra.partitions):
        return None
    return cassandra if cassandra.first_offsets else None


def _problems_of_log(
    settings: Settings, kafka: KafkaStatus | None, log: LogStatus
) -> Iterator[str]:
    if kafka is not None and kafka.last_epoch > (log.epoch or 0):
        yield (
            f"{settings.cassandra_keyspace} is not the database that was last written from this "
            f"log, of which epoch {kafka.last_epoch} is known: workers refuse to start. Stop them "
            "and run: readstates restore"
        )
        return
    if log.epoch is None:
        yield (
            f"{settings.cassandra_keyspace} was never written from {settings.updates_topic}. Run: "
            "readstates init"
        )
        return
    if log.last_topic != settings.updates_topic:
        yield (
            f"{settings.cassandra_keyspace} was last written from {log.last_topic}, not from "
            f"{settings.updates_topic}: workers refuse to start. See readstates init --help"
        )
        return
    here = kafka and (kafka.topic_id, len(kafka.partitions))
    if here and here != (log.topic_id, log.partitions):
        yield (
            f"{settings.updates_topic} has topic ID {here[0]} and {here[1]} partitions, but "
            f"{settings.cassandra_keyspace} was written from topic ID {log.topic_id} "
            f"with {log.partitions}: workers refuse to start. See readstates init --help"
        )
    elif not log.first_offsets:
        yield (
            f"{settings.cassandra_keyspace} does not say at which offsets epoch {log.epoch} of "
            f"{settings.updates_topic} begins, because an earlier version began it: workers refuse "
            "to start. Run: readstates init"
        )


def _problems_of_servers(
    settings: Settings, kafka: KafkaStatus, owners_known: bool
) -> Iterator[str]:
    """What partitions lack. One sentence for all of them, because they often lack it together."""
    places = kafka.partitions
    for topic, alone in (
        (settings.updates_topic, [one.number for one in places if one.leader is None]),
        (settings.queries_topic, [one.number for one in places if one.queries_leader is None]),
    ):
        if alone:
            yield f"{topic} {said(alone)} {have(alone)} no leader: a broker is away"
    unowned = [one.number for one in places if one.owner is None]
    if owners_known and unowned:
        yield f"{said(unowned)} {have(unowned)} no owner: updates and queries wait"


def _problems_of_overdue(settings: Settings, kafka: KafkaStatus) -> Iterator[str]:
    late = [one for one in kafka.partitions if one.overdue]
    moved = [one for one in late if not one.written_to]  # a worker's commit names the database
    for group, why in (
        (
            moved,
            "somebody moved the commits back, as `readstates rewind` does, and no worker has "
            "committed since. Workers will fold these updates again",
        ),
        (
            [one for one in late if one.written_to],
            "the owners are catching up (after an outage or a rewind), or cannot write to "
            "Cassandra, or stand still. While a partition catches up, its queries get "
            "not_caught_up. See ops/runbooks/ReadStatesDurabilityLag.md",
        ),
    ):
        if group:
            yield (
                f"{settings.updates_topic} {said([one.number for one in group])}: "
                f"{sum(one.overdue or 0 for one in group)} updates are more than "
                f"{overdue_s(settings):g} s old and not known to be in Cassandra: {why}"
            )


def have(numbers: list[int]) -> str:
    """The verb after `said`."""
    return "has" if len(numbers) == 1 else "have"


def said(numbers: list[int]) -> str:
    """Partitions in words: `partition 3`, `partitions 0-7, 9`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    word = "partition" if len(numbers) == 1 else "partitions"
    return f"{word} {', '.join('-'.join(map(str, run)) for run in runs)}"


def _problems_of_clocks(settings: Settings, one: PartitionStatus) -> Iterator[str]:
    age_ms = one.newest_query_age_ms
    if age_ms is None or one.owner is None:
        return
    place = f"{settings.queries_topic} partition {one.number}"
    if age_ms < -AHEAD_MS:
        yield (
            f"{place}: its newest record is {-age_ms / 1000:.1f} s in the future by this machine's "
            f"clock: that clock is behind, or the clock of broker {one.queries_leader} is ahead. "
            "See ops/runbooks/ReadStatesClockOffset.md"
        )
    elif age_ms > SILENT_MS:
        yield (
            f"{place}: its newest record is {age_ms / 1000:.0f} s old, but its owner sends one "
            "every 10 s to compare clocks: this machine's clock is ahead, or the owner stands "
            "still, or has no right to write there. See ops/runbooks/ReadStatesClockOffset.md"
        )


def _problems_of_commit(
    settings: Settings, one: PartitionStatus, epoch: LogStatus | None
) -> Iterator[str]:
    if one.committed is None:
        return
    place = f"{settings.updates_topic} partition {one.number}"
    first = epoch.first_offsets[one.number] if epoch else 0
    if epoch and one.committed < first:
        yield (
            f"{place}: commit before the epoch: the committed offset is {one.committed}, but epoch "
            f"{epoch.epoch} (since {epoch.began_at} UTC) begins at offset {first}. Workers refuse "
            "to open it. See ops/runbooks/ReadStatesPartitionUnowned.md"
        )
    elif one.log_start is None or one.log_end is None:
        return
    elif not one.log_start <= one.committed <= one.log_end:
        yield (
            f"{place}: committed offset {one.committed} is outside the log, {one.log_start} … "
            f"{one.log_end}: Kafka lost data, and workers refuse to open it"
        )
