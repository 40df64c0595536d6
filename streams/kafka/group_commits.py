"""The group's commits, as commands change them while no worker is a member."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from ..config import Settings
from ..errors import ReadStatesError
from .admin import describe_group
from .group_consumer import Committed
from .topics import TIMEOUT_S

COORDINATOR_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
COORDINATOR_PAUSE_S = 0.5  # before the group's coordinator is asked again, within TIMEOUT_S


def no_workers(client: AdminClient, settings: Settings, error: type[ReadStatesError]) -> None:
    """Raise `error` while the group has members.

    Brokers that nobody has asked about any group yet make the topic of the coordinators first.
    """
    group, end = settings.kafka_group, time.monotonic() + TIMEOUT_S
    while True:
        try:
            description = describe_group(client, group, TIMEOUT_S)
            break
        except KafkaException as exc:
            code = exc.args[0].code()
            if code == KafkaError.GROUP_ID_NOT_FOUND:
                return
            if code not in COORDINATOR_MOVES or time.monotonic() > end:
                raise
        time.sleep(COORDINATOR_PAUSE_S)
    if description.state not in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD):
        raise error(
            f"group {group} has {len(description.members)} members: stop all workers first, then "
            "run this again. A static member counts until its session timeout is over"
        )


def offsets(client: AdminClient, places: list[TopicPartition], spec: OffsetSpec) -> list[int]:
    """Kafka's answer for each place, in their order; -1 where no record is as late as `spec`."""
    found = client.list_offsets(dict.fromkeys(places, spec))
    return [int(found[place].result(TIMEOUT_S).offset) for place in places]


def log_offsets(
    client: AdminClient, topic: str, partitions: int, since_ms: int | None
) -> tuple[list[int], list[int], list[int]]:
    """A topic's first offsets, its ends, and its first offsets at `since_ms`, by partition.

    The ends are those of what may be read: records of open transactions follow. `since_ms`: the
    brokers' time, ms since 1970; None for the first offsets.
    """
    places = [TopicPartition(topic, number) for number in range(partitions)]
    starts = offsets(client, places, OffsetSpec.earliest())
    found = client.list_offsets(
        dict.fromkeys(places, OffsetSpec.latest()), isolation_level=IsolationLevel.READ_COMMITTED
    )
    ends = [int(found[place].result(TIMEOUT_S).offset) for place in places]
    if since_ms is None:
        return starts, ends, starts
    later = offsets(client, places, OffsetSpec.for_timestamp(since_ms))
    return starts, ends, [end if one < 0 else one for one, end in zip(later, ends, strict=True)]


def commits(settings: Settings, places: list[TopicPartition]) -> list[TopicPartition]:
    """The group's commits for these partitions; an offset below 0 means that there is none.

    A consumer that never joins asks, because AdminClient.list_consumer_group_offsets
    (confluent-kafka 2.16) crashes the process while the brokers are still creating the group
    coordinator's topic.
    """
    consumer = Consumer(settings.librdkafka(**{"group.id": settings.kafka_group, "log_level": 0}))
    try:
        committed: list[TopicPartition] = consumer.committed(places, timeout=TIMEOUT_S)
        return committed
    finally:
        consumer.close()


def commits_of(settings: Settings, topic: str, partitions: int) -> list[Committed]:
    """The group's commits with their metadata, by partition; an offset below 0: none."""
    places = [TopicPartition(topic, number) for number in range(partitions)]
    return [(place.offset, metadata_in(place)) for place in commits(settings, places)]


def metadata_in(place: TopicPartition) -> str:
    """A commit's metadata; empty if it is none of ours.

    confluent-kafka (2.16) may read beyond its end, so a reader must look for its terminator.
    """
    try:
        return place.metadata or ""
    except UnicodeDecodeError:
        return ""


def set_commits(
    client: AdminClient,
    settings: Settings,
    topic: str,
    commits: Mapping[int, Committed],
    error: type[ReadStatesError],
) -> None:
    """Set the group's commits of these partitions; raises `error` if Kafka refuses one.

    Kafka refuses while the group has members.
    """
    places = [TopicPartition(topic, number, *one) for number, one in commits.items()]
    request = [ConsumerGroupTopicPartitions(settings.kafka_group, places)]
    (done,) = client.alter_consumer_group_offsets(request).values()
    try:
        refused = [
            one.error for one in done.result(TIMEOUT_S).topic_partitions if one.error is not None
        ]
    except KafkaException as exc:
        refused = [exc.args[0]]
    if refused:
        raise error(
            f"the commits of group {settings.kafka_group} cannot be set: {refused[0]}. Stop all "
            "workers, and run this again"
        )
