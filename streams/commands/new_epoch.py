"""A new epoch: the log begins anew, with more partitions, or in a topic made anew.

Versions count the log's offsets below an epoch. With another partition count a user's updates
come from another partition, in a new topic offsets start again: only a larger epoch keeps new
changes above old ones. That is safe only if nothing of the old log is still to be written:

1. producers have stopped;
2. all of the old log is in Cassandra: the group's commits are its ends;
3. no worker is running.

`prepare` checks 2 and 3, adds the partitions, and lets the group read a topic made anew from its
beginning. It may be repeated at any point; until the epoch is claimed, workers refuse to start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import (
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec

from ..config import Settings
from ..errors import EpochError, ReadStatesError
from ..kafka.admin import connect_admin
from ..kafka.topics import TIMEOUT_S, Topic, commits, describe, wait_for_partitions

if TYPE_CHECKING:  # `rewind` needs none of Cassandra's driver
    from ..cassandra.store import Log


def prepare(settings: Settings, known: Log | None, partitions: int | None) -> Topic:
    """Make the topics ready for a new epoch. `known`: what was written so far from this topic.

    Raises EpochError where it would lose something, saying what to do first.
    """
    client = connect_admin(settings)
    topic = describe(client, settings.updates_topic)
    no_workers(client, settings, EpochError)
    if known is not None and known.topic_id == topic.topic_id:
        _all_durable(client, settings, known.partitions)
    else:
        _forget_commits(client, settings)
    if partitions is not None and partitions != topic.partitions:
        _grow(client, settings, topic.partitions, partitions)
    return describe(client, settings.updates_topic)


def no_workers(client: AdminClient, settings: Settings, error: type[ReadStatesError]) -> None:
    """Raises `error` while the group has members."""
    group = settings.kafka_group
    try:
        description = client.describe_consumer_groups([group])[group].result(TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return
        raise
    if description.state not in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD):
        raise error(
            f"group {group} has {len(description.members)} members: stop all workers first, then "
            "run this again. A static member counts until its session timeout is over"
        )


def _all_durable(client: AdminClient, settings: Settings, partitions: int) -> None:
    places = [TopicPartition(settings.updates_topic, number) for number in range(partitions)]
    ends = client.list_offsets({place: OffsetSpec.latest() for place in places})
    left = 0
    for place in commits(settings, places):
        end = ends[TopicPartition(place.topic, place.partition)].result(TIMEOUT_S).offset
        left += max(0, end - max(0, place.offset))
    if left:
        raise EpochError(
            f"{left} records of {settings.updates_topic} are not yet in Cassandra: stop the "
            "producers, let the workers run until read_states_durability_lag_records is 0, stop "
            "them, and run this again"
        )


def _forget_commits(client: AdminClient, settings: Settings) -> None:
    """Those of a topic that is gone would point anywhere in the new one."""
    group = settings.kafka_group
    try:
        client.delete_consumer_groups([group])[group].result(TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise


def _grow(client: AdminClient, settings: Settings, have: int, wanted: int) -> None:
    if wanted < have:
        raise EpochError(
            f"{settings.updates_topic} has {have} partitions and Kafka cannot take any away. For "
            f"{wanted}, make new topics: set another TOPIC_PREFIX and run: readstates init "
            f"--partitions {wanted} --new-epoch"
        )
    for name in (settings.updates_topic, settings.queries_topic):
        if describe(client, name).partitions < wanted:
            client.create_partitions([NewPartitions(name, wanted)])[name].result(TIMEOUT_S)
        wait_for_partitions(client, name, wanted)
