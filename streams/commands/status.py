"""`readstates status`: the workers' group, its partitions and the database, seen from one shell.

Kafka and Cassandra are asked separately, each within TIMEOUT_S; what does not answer is named as a
problem and the rest is shown. Nothing is changed. `look` gathers, `problems_of` judges, and the
command prints.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ..cassandra.epochs import last_topic
from ..config import Settings
from ..errors import ReadStatesError
from .options import CASSANDRA, KAFKA_ONLY, SettingsCommand, settings_of, with_settings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

TIMEOUT_S = 10.0  # for each request; connecting takes as long again at the most
STABLE, UNKNOWN = "STABLE", "?"
NOTHING_WRONG = (
    "nothing is wrong with the group, the topics and the epoch; latency, failed loads and writes, "
    "dead letters: see the metrics"
)
ASKED = (*KAFKA_ONLY, "kafka_group", *CASSANDRA, "cassandra_timeout_s")


@dataclass
class Member:
    """A worker, as the group's coordinator knows it."""

    member_id: str
    client_id: str
    host: str
    instance_id: str | None
    partitions: list[int]


@dataclass
class PartitionStatus:
    """A partition of updates and the one of queries beside it. None: not known, or never was."""

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

    @property
    def updates_lag(self) -> int | None:
        """Records of `updates` that are not committed: not known to be in Cassandra."""
        return _lag(self.log_end, self.committed)

    @property
    def queries_lag(self) -> int | None:
        return _lag(self.queries_end, self.queries_committed)


@dataclass
class KafkaStatus:
    """What Kafka says."""

    topic_id: str
    group_state: str
    members: list[Member]
    partitions: list[PartitionStatus]
    problems: list[str] = field(default_factory=list)  # met while asking


@dataclass
class LogStatus:
    """What the database says of the log it was written from; None where it has none of it."""

    epoch: int | None = None
    topic_id: str | None = None
    partitions: int | None = None
    last_topic: str | None = None  # the topic that it was written from last
    began_at: str | None = None  # the epoch, UTC
    first_offsets: tuple[int, ...] = ()  # of the epoch, by partition; empty: not known


@dataclass
class Status:
    """All of it. A part that did not answer is None, and its problem says why."""

    kafka: KafkaStatus | None
    cassandra: LogStatus | None
    problems: list[str]


def _lag(end: int | None, committed: int | None) -> int | None:
    return None if end is None or committed is None else max(0, end - committed)


def look(settings: Settings) -> Status:
    """Ask Kafka and Cassandra; never raises for what they answer, or do not."""
    problems: list[str] = []
    kafka = cassandra = None
    try:
        kafka = _kafka(settings)
    except (ReadStatesError, TimeoutError) as exc:
        problems.append(f"Kafka: {exc or 'no answer'}")
    try:
        cassandra = _cassandra(settings)
    except ReadStatesError as exc:
        problems.append(f"Cassandra: {exc}")
    return Status(kafka, cassandra, [*problems, *problems_of(settings, kafka, cassandra)])


def _cassandra(settings: Settings) -> LogStatus:
    from ..cassandra.store import logs_of

    logs = logs_of(settings)
    last = last_topic(logs)
    log = logs.get(settings.updates_topic)
    if log is None:
        return LogStatus(last_topic=last)
    topic_id = str(log.topic_id)
    return LogStatus(log.epoch, topic_id, log.partitions, last, log.began_at, log.first_offsets)


def _kafka(settings: Settings) -> KafkaStatus:
    from confluent_kafka import KafkaException

    from ..kafka import topics
    from ..kafka.admin import connect_admin

    client = connect_admin(settings, TIMEOUT_S)
    topic = topics.describe(client, settings.updates_topic)
    kafka = KafkaStatus(
        str(topic.topic_id), UNKNOWN, [], [PartitionStatus(n) for n in range(topic.partitions)]
    )
    for ask in (_leaders, _members, _offsets, _commits):
        try:
            ask(client, settings, kafka)
        except (KafkaException, TimeoutError) as exc:
            what = ask.__name__.strip("_")
            kafka.problems.append(f"Kafka does not tell the {what}: {exc or 'no answer'}")
    return kafka


def _leaders(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    for name, attribute in _topics(settings, "leader", "queries_leader"):
        topic = client.list_topics(name, timeout=TIMEOUT_S).topics[name]
        for number, place in topic.partitions.items():
            if number < len(kafka.partitions) and place.leader >= 0:
                setattr(kafka.partitions[number], attribute, place.leader)


def _members(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import KafkaError, KafkaException

    group = settings.kafka_group
    try:
        asked = client.describe_consumer_groups([group], request_timeout=TIMEOUT_S)
        described = asked[group].result(TIMEOUT_S + 1)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise
        kafka.group_state = "DEAD"  # what older brokers say of a group that is not there
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


def _offsets(client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import KafkaException, TopicPartition
    from confluent_kafka.admin import OffsetSpec

    asked = [
        (settings.updates_topic, "log_start", OffsetSpec.earliest()),
        (settings.updates_topic, "log_end", OffsetSpec.latest()),
        (settings.queries_topic, "queries_end", OffsetSpec.latest()),
    ]
    for name, attribute, spec in asked:
        # one request each: the answer for a partition without a leader must not hide the others
        for partition in kafka.partitions:
            is_updates = name == settings.updates_topic
            if (partition.leader if is_updates else partition.queries_leader) is None:
                continue
            place = TopicPartition(name, partition.number)
            (future,) = client.list_offsets({place: spec}, request_timeout=TIMEOUT_S).values()
            try:
                setattr(partition, attribute, future.result(TIMEOUT_S + 1).offset)
            except (KafkaException, TimeoutError) as exc:
                kafka.problems.append(f"{name} partition {partition.number}: {exc or 'no answer'}")


def _metadata(place: Any) -> str:
    """`clean:<position>` or `live:<position>`, or empty.

    confluent-kafka (2.16) was seen to read on after its end, so no more than its form is taken.
    """
    try:
        form = re.match(r"(clean|live):[0-9]+", place.metadata or "")
    except UnicodeDecodeError:
        return ""
    return form[0] if form else ""


def _commits(_client: AdminClient, settings: Settings, kafka: KafkaStatus) -> None:
    from confluent_kafka import TopicPartition

    from ..kafka.topics import commits

    for name, attribute in _topics(settings, "committed", "queries_committed"):
        places = [TopicPartition(name, partition.number) for partition in kafka.partitions]
        for place in commits(settings, places):
            if place.offset < 0:
                continue
            partition = kafka.partitions[place.partition]
            setattr(partition, attribute, place.offset)
            if name == settings.updates_topic:
                partition.metadata = _metadata(place)


def _topics(settings: Settings, updates: str, queries: str) -> list[tuple[str, str]]:
    return [(settings.updates_topic, updates), (settings.queries_topic, queries)]


def problems_of(
    settings: Settings, kafka: KafkaStatus | None, cassandra: LogStatus | None
) -> Iterator[str]:
    """What is wrong, a sentence each, with what to do where that is known."""
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
            yield from _problems_of_commit(settings, one, epoch)
    if cassandra is not None:
        yield from _problems_of_log(settings, kafka, cassandra)


def _epoch(kafka: KafkaStatus, cassandra: LogStatus | None) -> LogStatus | None:
    """What the database says of the epoch, where it is this topic's."""
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
            f"{settings.updates_topic} begins, for an earlier version began it: workers refuse to "
            "start. Run: readstates init"
        )


def _problems_of_one(settings: Settings, one: PartitionStatus, owners_known: bool) -> Iterator[str]:
    if one.leader is None:
        yield f"{settings.updates_topic} partition {one.number} has no leader: a broker is away"
    if one.queries_leader is None:
        yield f"{settings.queries_topic} partition {one.number} has no leader: a broker is away"
    if owners_known and one.owner is None:
        yield f"partition {one.number} has no owner: its updates and queries wait"


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


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; offsets are strings.")
@with_settings(*ASKED)
def status(as_json: bool, **flags: Any) -> None:
    """Show the workers, partitions, commits and epoch, and what is wrong with them.

    "not committed" counts the records of updates between the commit and the log's end. Most of them
    are applied, but they are not known to be in Cassandra; they are at most FLUSH_DELAY_S old while
    all is well. "queries lag" counts the queries that are not answered. The metadata of a commit
    says how far its owner had applied the log: live:OFFSET while it runs, clean:OFFSET after an
    orderly end.

    Latency, failed loads and writes, and dead letters are not looked at: see the metrics.

    Exit status: 0 nothing is wrong; 1 something is wrong or does not answer; 2 wrong usage.
    """
    settings = settings_of(flags)
    found = look(settings)
    click.echo(_json(found) if as_json else "\n".join(_text(settings, found)))
    sys.exit(1 if found.problems else 0)


def _json(found: Status) -> str:
    body: dict[str, Any] = {"ok": not found.problems, **asdict(found)}
    if found.kafka is not None:
        body["kafka"].pop("problems")
        for shown, one in zip(body["kafka"]["partitions"], found.kafka.partitions, strict=True):
            shown.update(updates_lag=one.updates_lag, queries_lag=one.queries_lag)
            for name, value in shown.items():
                if value is not None and name.endswith(("_start", "_end", "committed")):
                    shown[name] = str(value)
    if found.cassandra is not None:
        body["cassandra"]["first_offsets"] = list(map(str, found.cassandra.first_offsets))
    return json.dumps(body, indent=2)


def _text(settings: Settings, found: Status) -> Iterator[str]:
    if found.kafka is not None:
        yield from _kafka_text(settings, found.kafka)
    if found.cassandra is not None and found.cassandra.epoch is not None:
        log = found.cassandra
        yield (
            f"database {settings.cassandra_keyspace}: epoch {log.epoch} since {log.began_at} UTC, "
            f"topic ID {log.topic_id}, {log.partitions} partitions"
        )
    yield from (f"PROBLEM {_printable(problem)}" for problem in found.problems)
    if not found.problems:
        yield NOTHING_WRONG


def _kafka_text(settings: Settings, kafka: KafkaStatus) -> Iterator[str]:
    yield f"group {settings.kafka_group}: {kafka.group_state}, {len(kafka.members)} workers"
    for one in kafka.members:
        name = one.instance_id or one.member_id
        yield _printable(
            f"  {name} at {one.host}, {one.client_id}, partitions "
            f"{', '.join(map(str, one.partitions)) or 'none'}"
        )
    yield (
        f"topic {settings.updates_topic}: topic ID {kafka.topic_id}, "
        f"{len(kafka.partitions)} partitions"
    )
    row = "{:>9} {:>6} {:>14} {:>14} {:>13} {:>11}  {:<22} {}".format
    yield row(
        "partition", "leader", "log end", "committed", "not committed", "queries lag",
        "commit says", "owner",
    )  # fmt: skip
    for place in kafka.partitions:
        cells = (
            place.leader,
            place.log_end,
            place.committed,
            place.updates_lag,
            place.queries_lag,
            place.metadata or None,
            place.owner,
        )
        yield _printable(row(place.number, *("-" if cell is None else cell for cell in cells)))


def _printable(text: str) -> str:
    """A client names itself: nothing of it may be a control character at a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
