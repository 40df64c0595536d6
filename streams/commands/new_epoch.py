"""Begins a new epoch: the log begins anew, with more partitions or in a new topic.

A version is an epoch and an offset of the log. With another partition count, a user's updates come
from another partition; in a new topic, offsets start again. In both cases only a larger epoch gives
new changes larger versions. That is safe only if nothing of the old log is still to be written:

1. producers have stopped;
2. all of the old log is in Cassandra: the group's commits are at the log's ends;
3. no worker is running.

`prepare` checks 2 and 3, adds the partitions, and lets the group read a new topic from its
beginning. It may be repeated at any point; until the epoch is claimed, workers refuse to start.

The epoch begins where the old log ends: its first offset of a partition is that end, or 0 if the
partition is new (E1 in `cassandra/epochs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec

from readstates.schemas.epoch_history import Epoch
from readstates.schemas.version import EPOCH_FIRST

from ..cassandra.epochs import Log, is_last
from ..config import Settings
from ..errors import EpochError, TopicError
from ..kafka.admin import connect_admin
from ..kafka.group_commits import commits, commits_of, no_workers, offsets
from ..kafka.restore_fence import refuse_while_restoring
from ..kafka.topics import TIMEOUT_S, Topic, describe, wait_for_partitions

if TYPE_CHECKING:  # `rewind` needs none of Cassandra's driver
    from ..cassandra.store import Store

CLOCKS_APART_S = 60  # the clocks of Kafka and Cassandra differ by less


def prepare(settings: Settings, known: Log | None, partitions: int | None) -> list[int]:
    """Prepare the topics for a new epoch; returns its first offset of each partition.

    `known`: the log that was written so far from this topic. Raises EpochError if the new epoch
    would lose something; the text says what to do first.
    """
    client = connect_admin(settings)
    topic = describe(client, settings.updates_topic)
    no_workers(client, settings, EpochError)
    committed = commits_of(settings, settings.updates_topic, topic.partitions)
    refuse_while_restoring(settings, committed, EpochError)
    ends: list[int] = []
    if known is not None and known.topic_id == topic.topic_id:
        ends = _all_durable(client, settings, known.partitions, topic.partitions)
    else:
        _forget_commits(client, settings)
    if partitions is not None and partitions != topic.partitions:
        _grow(client, settings, partitions)
        topic = describe(client, settings.updates_topic)
    return ends + [0] * (topic.partitions - len(ends))


def deleted(settings: Settings, known: Log) -> EpochError:
    """The error if the updates topic is gone, and the keyspace was written from it.

    Nothing is created before somebody has decided: an empty topic of the same name would let
    producers go on, and its offsets would run backwards.
    """
    name = settings.updates_topic
    return EpochError(
        f"topic {name} does not exist, but {settings.cassandra_keyspace} was written from it "
        f"({known.said}): somebody deleted it, or KAFKA_BOOTSTRAP or TOPIC_PREFIX leads to another "
        "place. Nothing was created. If it was deleted, updates that were not yet in Cassandra are "
        "lost. To go on with a new topic and what Cassandra has, stop all workers and run: "
        f"readstates init --new-epoch --partitions {known.partitions}"
    )


def check_number(settings: Settings, have: int, wanted: int, new_epoch: bool) -> None:
    """Raise TopicError if the updates topic, which has `have` partitions, cannot have `wanted`.

    This is checked before anything is created, so that no other topic gets a number of its own.
    """
    name = settings.updates_topic
    if wanted < have:
        raise TopicError(
            f"{name} has {have} partitions, not {wanted}, and Kafka cannot take any away. No "
            f"topic was changed. To leave it so, run: readstates init --partitions {have}. For "
            f"{wanted}, make new topics: set another TOPIC_PREFIX and run: readstates init "
            f"--partitions {wanted} --new-epoch"
        )
    if wanted > have and not new_epoch:
        raise TopicError(
            f"{name} has {have} partitions, not {wanted}. No topic was changed. Another number "
            "moves users to other partitions; with producers and workers stopped: readstates init "
            f"--partitions {wanted} --new-epoch"
        )


def _all_durable(client: AdminClient, settings: Settings, partitions: int, now: int) -> list[int]:
    """The log's ends. Raises EpochError if the commit of a partition is not at its end.

    `partitions`: of the present epoch. `now`: of the topic; if it is another number, no worker can
    apply what is left, because it refuses the topic.
    """
    places = [TopicPartition(settings.updates_topic, number) for number in range(partitions)]
    ends = offsets(client, places, OffsetSpec.latest())
    left = 0
    for place in commits(settings, places):
        left += max(0, ends[place.partition] - max(0, place.offset))
    if left and now != partitions:
        raise EpochError(
            f"{left} records of {settings.updates_topic} are not yet in Cassandra, and no worker "
            f"can apply them any more, because somebody added partitions by hand: there were "
            f"{partitions}, and there are {now}. Nothing was changed. To go on without these "
            "records, set another TOPIC_PREFIX for workers, producers and clients, and run: "
            f"readstates init --new-epoch --partitions {now}"
        )
    if left:
        raise EpochError(
            f"{left} records of {settings.updates_topic} are not yet in Cassandra: stop the "
            "producers, let the workers run until read_states_durability_lag_records is 0, stop "
            "them, and run this again"
        )
    return ends


def _forget_commits(client: AdminClient, settings: Settings) -> None:
    """Delete the group's commits: those of a topic that is gone mean nothing in the new one."""
    group = settings.kafka_group
    try:
        client.delete_consumer_groups([group])[group].result(TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise


def _grow(client: AdminClient, settings: Settings, wanted: int) -> None:
    feed = [settings.changes_topic] if settings.tells_changes else []
    for name in (settings.updates_topic, settings.queries_topic, *feed):
        if describe(client, name).partitions < wanted:
            client.create_partitions([NewPartitions(name, wanted)])[name].result(TIMEOUT_S)
        wait_for_partitions(client, name, wanted)


def complete(
    settings: Settings,
    store: Store,
    topic: Topic,
    given: list[int] | None,
    history: Mapping[int, Epoch],
) -> None:
    """Store the present epoch's first offsets if an earlier version began it and did not.

    `given`: the offsets that the operator names; those that the history has count before
    them. Raises EpochError if the offsets are not known, or if the given ones cannot be right.
    """
    name, logs = settings.updates_topic, store.logs()
    if not is_last(logs, name, *topic):
        return  # there is no epoch yet, or it is of another log: `claim_epoch` handles that
    log = logs[name]
    if not log.first_offsets:
        kept = history.get(log.epoch)
        first = kept.first_offsets if kept else found_first_offsets(settings, log, given)
        store.keep_first_offsets(name, log.epoch, first)
    elif given is not None and tuple(given) != log.first_offsets:
        raise EpochError(
            f"{name}: {log.said} begins at other offsets, {','.join(map(str, log.first_offsets))}: "
            "they are known, and stay. Run init without --first-offsets"
        )


class Around(NamedTuple):
    """The offsets at which the epoch may begin in a partition: from `low` to `high`."""

    low: int  # the first record CLOCKS_APART_S before the epoch was claimed
    high: int  # … and after it
    end: int
    committed: int  # below 0: nothing

    @property
    def first(self) -> int | None:
        """The epoch's first offset; None if the operator must name it.

        Everything below a commit is durable. So if the group has committed, an answer that is too
        large leaves nothing out: it only forbids going back as far as would be safe. A commit below
        `low` was moved there by hand, and proves nothing.
        """
        if self.committed >= self.low:
            return min(self.committed, self.high)
        return self.high if self.committed >= 0 or self.low == self.high else None

    def may_be(self, given: int) -> bool:
        """False if the log has no such offset, or if a worker would leave out records."""
        return given <= (self.committed if self.committed >= self.low else self.end)


def found_first_offsets(settings: Settings, log: Log, given: list[int] | None) -> list[int]:
    """The first offsets of an epoch that an earlier version of the service began without them.

    The records that were in the log when the epoch was claimed belong to an earlier epoch, and the
    producers were stopped at that time. Raises EpochError if more than one offset is possible.
    """
    name = settings.updates_topic
    if given is not None and len(given) != log.partitions:
        raise EpochError(
            f"{len(given)} first offsets are given, but {name} has {log.partitions} partitions"
        )
    if log.epoch == EPOCH_FIRST:
        return [0] * log.partitions
    around = _around(settings, log)
    for number, (offset, one) in enumerate(zip(given or (), around, strict=False)):
        if not one.may_be(offset):
            raise EpochError(
                f"{name} partition {number}: {log.said} cannot begin at offset {offset}: the "
                f"group's commit is {one.committed}, and the log ends at {one.end}"
            )
    if given is not None:
        return given
    found = [one.first for one in around if one.first is not None]
    if len(found) < log.partitions:
        raise EpochError(_ask_for(settings, log, around))
    return found


def _around(settings: Settings, log: Log) -> list[Around]:
    client = connect_admin(settings)
    places = [TopicPartition(settings.updates_topic, number) for number in range(log.partitions)]
    ends = offsets(client, places, OffsetSpec.latest())
    low, high = (
        offsets(client, places, OffsetSpec.for_timestamp(log.began_us // 1000 + apart_s * 1000))
        for apart_s in (-CLOCKS_APART_S, CLOCKS_APART_S)
    )
    committed = [place.offset for place in commits(settings, places)]
    return [
        Around(end if a < 0 else a, end if b < 0 else b, end, commit)
        for a, b, end, commit in zip(low, high, ends, committed, strict=True)
    ]


def _ask_for(settings: Settings, log: Log, around: list[Around]) -> str:
    unknown = [
        f"{one.low} … {one.high} of partition {number}"
        for number, one in enumerate(around)
        if one.first is None
    ]
    shown = ",".join(str(one.low if one.first is None else one.first) for one in around)
    return (
        f"{settings.updates_topic}: an earlier version began {log.said} and did not keep its "
        f"first offsets. Group {settings.kafka_group} has committed nothing, and there are records "
        f"within {CLOCKS_APART_S} s of that time. So the first offset is one of "
        f"{', '.join(unknown)}: that of the first record after the producers had stood still, or "
        "0 for a partition that the epoch added. Look it up, put it in its place, and run: "
        f"readstates init --first-offsets {shown}"
    )
