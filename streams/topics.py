"""The service's topics: creating them, and checking what the worker needs of them."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from readstates.streams import security
from readstates.streams.config import Settings
from readstates.streams.errors import TopicError

log = logging.getLogger(__name__)

TIMEOUT_S = 15.0
DAY_MS = 86_400_000
RETENTION_FLOOR_FACTOR = 20  # retention of `updates` in multiples of FLUSH_DELAY_S, at the least
EVENT_TOPIC_BYTES_MAX = 1 << 20
QUERY_TOPIC_BYTES_MAX = 512 << 10  # a query's value at its largest, and as much for headers
HEADERS_BYTES = 64 << 10  # more than our headers of a dead letter take
LOGGED = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete"}


class Topic(NamedTuple):
    """What the worker needs to know of the updates topic."""

    topic_id: uuid.UUID
    partitions: int


def wanted(settings: Settings, replication: int) -> dict[str, dict[str, str]]:
    """Topic settings by topic name, as `readstates init` sets them."""
    min_isr = str(max(1, replication - 1))
    safe = {"unclean.leader.election.enable": "false", "min.insync.replicas": min_isr}
    return {
        settings.updates_topic: {
            **LOGGED,
            **safe,
            "retention.ms": str(7 * DAY_MS),
            "max.message.bytes": str(EVENT_TOPIC_BYTES_MAX),
        },
        settings.queries_topic: {
            **LOGGED,
            "retention.ms": str(10 * 60_000),
            "max.message.bytes": str(QUERY_TOPIC_BYTES_MAX),
        },
        settings.dead_letters_topic: {
            **safe,
            "retention.ms": str(30 * DAY_MS),
            "max.message.bytes": str(EVENT_TOPIC_BYTES_MAX + HEADERS_BYTES),
        },
    }


def create(settings: Settings, partitions: int, replication: int) -> list[str]:
    """Create the topics that are not there; returns their names. Safe to repeat."""
    client = security.connect(settings)
    topics = [
        NewTopic(name, partitions, replication, config=config)
        for name, config in wanted(settings, replication).items()
    ]
    created = []
    for name, future in client.create_topics(topics, operation_timeout=TIMEOUT_S).items():
        try:
            future.result(timeout=TIMEOUT_S)
            created.append(name)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"cannot create topic {name}: {exc}") from exc
    _wait_until_described(client, settings)
    return created


def _wait_until_described(client: AdminClient, settings: Settings) -> None:
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            describe(client, settings.updates_topic)
            describe(client, settings.queries_topic)
        except TopicError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def wait_for_partitions(client: AdminClient, name: str, partitions: int) -> None:
    """Until the cluster shows a topic with that many partitions."""
    end = time.monotonic() + TIMEOUT_S
    while describe(client, name).partitions != partitions:
        if time.monotonic() > end:
            raise TopicError(f"{name} does not show {partitions} partitions after {TIMEOUT_S} s")
        time.sleep(0.1)


def describe(client: AdminClient, name: str) -> Topic:
    """Topic ID and partition count. Raises TopicError where it is not there."""
    try:
        future = client.describe_topics(TopicCollection([name]), request_timeout=TIMEOUT_S)[name]
        found = future.result(timeout=TIMEOUT_S + 1)
    except KafkaException as exc:
        raise TopicError(f"topic {name}: {exc}. Run: readstates init") from exc
    high, low = (
        found.topic_id.get_most_significant_bits(),
        found.topic_id.get_least_significant_bits(),
    )
    mask = (1 << 64) - 1
    return Topic(uuid.UUID(int=((high & mask) << 64) | (low & mask)), len(found.partitions))


def check(settings: Settings) -> Topic:
    """What a worker needs of the topics; raises TopicError naming the setting and the remedy."""
    client = security.connect(settings)
    updates = describe(client, settings.updates_topic)
    queries = describe(client, settings.queries_topic)
    describe(client, settings.dead_letters_topic)
    if updates.partitions != queries.partitions:
        raise TopicError(
            f"{settings.updates_topic} has {updates.partitions} partitions and "
            f"{settings.queries_topic} {queries.partitions}: they must have the same number, or "
            "a user's queries would go to another worker than its updates"
        )
    floor_ms = int(max(3600.0, settings.flush_delay_s * RETENTION_FLOOR_FACTOR) * 1000)
    found = _configs(client, settings.updates_topic)
    expected = {**LOGGED, "unclean.leader.election.enable": "false"}
    _compare(settings.updates_topic, found, expected)
    letters = _configs(client, settings.dead_letters_topic)
    room, record = int(letters["max.message.bytes"]), int(found["max.message.bytes"])
    if room < record + HEADERS_BYTES:
        raise TopicError(
            f"{settings.dead_letters_topic}: max.message.bytes is {room}, must be at least "
            f"{record + HEADERS_BYTES}, that of {settings.updates_topic} and {HEADERS_BYTES} for "
            "headers: a dead letter that does not fit would hold its partition's commits for ever"
        )
    retention_ms = int(found["retention.ms"])
    if 0 <= retention_ms < floor_ms:
        raise TopicError(
            f"{settings.updates_topic}: retention.ms is {retention_ms}, must be at least {floor_ms}"
            ": what is not yet in Cassandra is only in the log"
        )
    _compare(
        settings.queries_topic,
        _configs(client, settings.queries_topic),
        {"message.timestamp.type": "LogAppendTime"},
    )
    return updates


def _compare(topic: str, found: dict[str, Any], expected: dict[str, str]) -> None:
    for name, value in expected.items():
        if found[name] != value:
            raise TopicError(
                f"{topic}: {name} is {found[name]!r}, must be {value!r}. Set it with: "
                f"kafka-configs --alter --entity-type topics --entity-name {topic} "
                f"--add-config {name}={value}"
            )


def _configs(client: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    (future,) = client.describe_configs([resource], request_timeout=TIMEOUT_S).values()
    try:
        found = future.result(timeout=TIMEOUT_S + 1)
    except KafkaException as exc:
        raise TopicError(
            f"{topic}: its settings cannot be read: {exc}. The rights that a worker needs are in "
            "SECURITY.md; DescribeConfigs is one of them"
        ) from exc
    return {name: entry.value for name, entry in found.items()}
