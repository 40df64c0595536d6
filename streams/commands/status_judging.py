"""What `readstates status` calls wrong: one sentence each, with what to do if that is known."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from ..cassandra.database import Database
from ..config import Settings
from ..deviations import DATABASE_REPLACED
from .status_asking import UNKNOWN, KafkaStatus, LogStatus, PartitionStatus

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
        for one in kafka.partitions:
            yield from _problems_of_one(settings, one, known)
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
    database_id = uuid.UUID(log.database_id) if log.database_id else None
    found = Database(log.epoch, database_id, log.began_us)
    moved = [n.number for n in kafka.partitions if found.is_other_than(n.written_to)]
    if moved:
        yield (
            f"deviation {DATABASE_REPLACED}: the commits of {settings.updates_topic} partitions "
            f"{', '.join(map(str, moved))} were made over another database than "
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


def _problems_of_one(settings: Settings, one: PartitionStatus, owners_known: bool) -> Iterator[str]:
    if one.leader is None:
        yield f"{settings.updates_topic} partition {one.number} has no leader: a broker is away"
    if one.queries_leader is None:
        yield f"{settings.queries_topic} partition {one.number} has no leader: a broker is away"
    if owners_known and one.owner is None:
        yield f"partition {one.number} has no owner: its updates and queries wait"


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
