"""Asks Kafka and Cassandra for what `readstates status` shows: group, partitions and epoch.

Each request has a timeout of TIMEOUT_S. A failed request becomes a problem in the report. This
module changes nothing.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..cassandra.database import named_in
from ..cassandra.epochs import last_topic
from ..config import CLASSIC, Settings
from ..deviations import OPEN_TRANSACTION
from ..errors import EpochsTopicError, TopicError

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient, OffsetSpec

OVERDUE_MARGIN_S = 5.0  # a change is overdue this long after it should have been committed
OPEN_LOOK_S = 2.0  # a transaction that lasts this long is reported as open
TIMEOUT_S = 10.0  # for each request; connecting may take as long again
UNKNOWN = "?"  # group state that Kafka did not report


@dataclass
class Member:
    """A group member, as the coordinator reports it."""

    member_id: str
    client_id: str
    host: str
    instance_id: str | None
    partitions: list[int]


@dataclass
class PartitionStatus:
    """A partition of `updates`, and the one of `queries` with the same number. None: unknown."""

    number: int
    leader: int | None = None
    owner: str | None = None
    log_start: int | None = None
    log_end: int | None = None
    committed: int | None = None
    metadata: str = ""
    queries_leader: int | None = None
    queries_end: int | None = None
    queries_committed: int | None = None
    newest_query_age_ms: int | None = None  # by this machine's clock; probes are included
    written_to: str = ""  # the part of the commit's metadata that names the database
    overdue: int | None = None  # uncommitted updates older than `overdue_s`

    @property
    def updates_lag(self) -> int | None:
        """Uncommitted records of `updates`, which may not be in Cassandra yet."""
        return _lag(self.log_end, self.committed)

    @property
    def queries_lag(self) -> int | None:
        return _lag(self.queries_end, self.queries_committed)


@dataclass
class KafkaStatus:
    """What Kafka reports."""

    topic_id: str
    group_state: str
    members: list[Member]
    partitions: list[PartitionStatus]
    problems: list[str] = field(default_factory=list)  # including failed requests
    death_unseen_s: float | None = None  # a dead worker stays in the group so long; None: unknown
    last_epoch: int = 0  # last epoch in the epochs topic; 0: unknown


@dataclass
class LogStatus:
    """What Cassandra knows about the Kafka log that its rows come from. None: unknown."""

    epoch: int | None = None
    topic_id: str | None = None
    partitions: int | None = None
    last_topic: str | None = None  # the topic of the last epoch
    began_at: str | None = None  # start of the epoch, in UTC
    first_offsets: tuple[int, ...] = ()  # of the epoch, by partition; empty: unknown
    began_us: int = 0  # `began_at` as µs since 1970
    database_id: str | None = None


def overdue_s(settings: Settings) -> float:
    """Return the age at which an uncommitted update is overdue.

    A worker writes a change after FLUSH_DELAY_S, or after twice that time under load. The next
    commit follows within COMMIT_INTERVAL_S.
    """
    return 2 * settings.flush_delay_s + 2 * settings.commit_interval_s + OVERDUE_MARGIN_S


def _lag(end: int | None, committed: int | None) -> int | None:
    return None if end is None or committed is None else max(0, end - committed)


def ask_cassandra(settings: Settings) -> LogStatus:
    """Return what Cassandra knows. Raises ReadStatesError if Cassandra does not answer."""
    from ..cassandra.store import logs_of

    logs = logs_of(settings)
    last = last_topic(logs)
    log = logs.get(settings.updates_topic)
    if log is None:
        return LogStatus(last_topic=last)
    return LogStatus(
        epoch=log.epoch,
        topic_id=str(log.topic_id),
        partitions=log.partitions,
        last_topic=last,
        began_at=log.began_at,
        first_offsets=log.first_offsets,
        began_us=log.began_us,
        database_id=str(log.database_id) if log.database_id else None,
    )


def ask_kafka(settings: Settings) -> KafkaStatus:
    """Return the state of the group and its partitions.

    Raises ReadStatesError or TimeoutError if Kafka does not answer at all. If only some requests
    fail, `problems` names them.
    """
    from confluent_kafka import KafkaException

    from ..kafka import topics
    from ..kafka.admin import connect_admin

    client = connect_admin(settings, TIMEOUT_S)
    topic = topics.describe(client, settings.updates_topic)
    kafka = KafkaStatus(
        str(topic.topic_id), UNKNOWN, [], [PartitionStatus(n) for n in range(topic.partitions)]
    )
    if settings.group_protocol == CLASSIC:
        kafka.death_unseen_s = settings.session_timeout_s
    for ask in (
        _settings,
        _leaders,
        _members,
        _strangers,
        _offsets,
        _ages,
        _commits,
        _overdue,
        _transactions,
        _epochs,
    ):
        try:
            ask(client, settings, kafka)
        except (KafkaException, TimeoutError) as exc:
            what = ask.__name__.strip("_")
            kafka.problems.append(f"Kafka did not report the {what}: {exc or 'no answer'}")
    return kafka


def _settings(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from ..kafka import topic_check

    try:
        seen = topic_check.look(client, settings, TIMEOUT_S)
    except TopicError as exc:
        kafka.problems.append(str(exc))
    else:
        found = topic_check.judge(settings, seen)
        kafka.problems += [f"deviation {one.name}: {one.text}" for one in found]


def _epochs(_client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from ..restore.history import topic_epochs

    with suppress(EpochsTopicError):  # `_settings` has reported a missing topic
        kafka.last_epoch = max(topic_epochs(settings), default=0)


def _leaders(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    for name, attribute in _topics(settings, "leader", "queries_leader"):
        topic = client.list_topics(name, timeout=TIMEOUT_S).topics[name]
        for number, place in topic.partitions.items():
            if number < len(kafka.partitions) and place.leader >= 0:
                setattr(kafka.partitions[number], attribute, place.leader)


def _members(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import KafkaError, KafkaException

    from ..kafka.admin import describe_group

    group = settings.kafka_group
    try:
        described = describe_group(client, group, TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise
        kafka.group_state = "DEAD"  # as older brokers report a group that does not exist
        return
    kafka.group_state = described.state.name
    for member in described.members:
        places = member.assignment.topic_partitions if member.assignment else []
        numbers = sorted(p.partition for p in places if p.topic == settings.updates_topic)
        host = member.host.lstrip("/")
        kafka.members.append(
            Member(member.member_id, member.client_id, host, member.group_instance_id, numbers)
        )
        for number in numbers:
            if number < len(kafka.partitions):
                kafka.partitions[number].owner = member.group_instance_id or member.member_id


def _strangers(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from ..kafka.strangers import strangers

    found = strangers(client, settings, TIMEOUT_S)
    kafka.problems += [f"deviation {one.name}: {one.text}" for one in found]


def _listed(client: AdminClient, name: str, number: int, spec: OffsetSpec) -> Any:
    """Return the offset that `spec` selects in one partition.

    Each partition gets its own request, because one partition without a leader would fail a
    request for several partitions.
    """
    from confluent_kafka import TopicPartition

    asked = {TopicPartition(name, number): spec}
    (future,) = client.list_offsets(asked, request_timeout=TIMEOUT_S).values()
    return future.result(TIMEOUT_S + 1)


def _offsets(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import OffsetSpec

    asked = [
        (settings.updates_topic, "log_start", OffsetSpec.earliest()),
        (settings.updates_topic, "log_end", OffsetSpec.latest()),
        (settings.queries_topic, "queries_end", OffsetSpec.latest()),
    ]
    for name, attribute, spec in asked:
        for partition in kafka.partitions:
            is_updates = name == settings.updates_topic
            if (partition.leader if is_updates else partition.queries_leader) is None:
                continue
            try:
                listed = _listed(client, name, partition.number, spec)
                setattr(partition, attribute, listed.offset)
            except (KafkaException, TimeoutError) as exc:
                kafka.problems.append(f"{name} partition {partition.number}: {exc or 'no answer'}")


def _ages(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import OffsetSpec

    name, newest = settings.queries_topic, OffsetSpec.max_timestamp()
    for partition in kafka.partitions:
        if partition.queries_leader is None:
            continue
        with suppress(KafkaException, TimeoutError):  # `_offsets` has reported it
            newest_ms = _listed(client, name, partition.number, newest).timestamp
            if newest_ms >= 0:
                partition.newest_query_age_ms = time.time_ns() // 1_000_000 - newest_ms


def _transactions(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    """Report each transaction that stays open for OPEN_LOOK_S."""
    before = _open_at(client, settings, kafka)
    if not before:
        return
    time.sleep(OPEN_LOOK_S)
    for (name, number), offset in _open_at(client, settings, kafka).items():
        if before.get((name, number)) == offset:
            kafka.problems.append(
                f"deviation {OPEN_TRANSACTION}: {name} partition {number} cannot be read beyond "
                f"offset {offset}, because a transaction is open there. See "
                "ops/runbooks/ReadStatesDeviation.md"
            )


def _open_at(
    client: AdminClient, settings: Settings, kafka: KafkaStatus
) -> dict[tuple[str, int], int]:
    """Return the last stable offset of each partition with an open transaction."""
    from confluent_kafka import IsolationLevel, TopicPartition
    from confluent_kafka.admin import OffsetSpec

    found = {}
    for name, attribute in _topics(settings, "leader", "queries_leader"):
        led = [one.number for one in kafka.partitions if getattr(one, attribute) is not None]
        asked = {TopicPartition(name, number): OffsetSpec.latest() for number in led}
        stable, ends = (
            client.list_offsets(asked, isolation_level=level, request_timeout=TIMEOUT_S)
            for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        )
        for place in asked:
            offset = stable[place].result(TIMEOUT_S + 1).offset
            if offset < ends[place].result(TIMEOUT_S + 1).offset:
                found[name, place.partition] = offset
    return found


def _metadata(place: Any) -> str:
    """Return `clean:<position>` or `live:<position>` from a commit, or an empty string.

    confluent-kafka 2.16 may append garbage to the metadata, so the terminator `;` is required.
    """
    try:
        form = re.match(r"((?:clean|live):[0-9]+);", place.metadata or "")
    except UnicodeDecodeError:
        return ""
    return form[1] if form else ""


def _written_to(place: Any) -> str:
    """Return the part of a commit's metadata that names the database.

    It is empty if the commit comes from another program.
    """
    with suppress(UnicodeDecodeError):
        return named_in(place.metadata or "")
    return ""


def _commits(_client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import TopicPartition

    from ..kafka.group_commits import commits

    for name, attribute in _topics(settings, "committed", "queries_committed"):
        places = [TopicPartition(name, partition.number) for partition in kafka.partitions]
        for place in commits(settings, places):
            if place.offset < 0:
                continue
            partition = kafka.partitions[place.partition]
            setattr(partition, attribute, place.offset)
            if name == settings.updates_topic:
                partition.metadata = _metadata(place)
                partition.written_to = _written_to(place)


def _overdue(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import OffsetSpec

    before_ms = time.time_ns() // 1_000_000 - int(overdue_s(settings) * 1000)
    for partition in kafka.partitions:
        if partition.leader is None or partition.committed is None or partition.log_end is None:
            continue
        if partition.committed >= partition.log_end:
            partition.overdue = 0
            continue
        with suppress(KafkaException, TimeoutError):  # `_offsets` has reported it
            spec = OffsetSpec.for_timestamp(before_ms)
            young = _listed(client, settings.updates_topic, partition.number, spec).offset
            end = partition.log_end if young < 0 else young
            partition.overdue = max(0, end - partition.committed)


def _topics(settings: Settings, updates: str, queries: str) -> list[tuple[str, str]]:
    return [(settings.updates_topic, updates), (settings.queries_topic, queries)]
