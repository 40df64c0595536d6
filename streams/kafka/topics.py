"""Creates the service's topics, and defines the topic settings that workers require.

`topic_check.py` compares these requirements with the actual settings. A rule (`topic_rule.py`) is
a required value, with its reason and the deviation (`deviations.py`) to report if the setting
differs. CONTRIBUTING.md ("Words") explains "epoch" and "candidate".
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from readstates.schemas.headers import DEADLINE_MAX_MS
from readstates.schemas.rollout import rollout_topic

from ..config import Settings
from ..deviations import (
    CLEANUP_POLICY,
    MIN_ISR,
    RECORD_SIZE,
    RETENTION,
    RETENTION_BYTES,
    TIMESTAMP_TYPE,
    UNCLEAN_ELECTION,
)
from ..errors import KafkaAwayError, TopicError
from . import changes_topic
from .admin import connect_admin
from .topic_rule import Rule

log = logging.getLogger(__name__)

TIMEOUT_S = 15.0
UNKNOWN_S = 10.0  # how long a new topic may be unknown to some brokers
AWAY_TIMEOUT_S = 60.0  # how long to repeat a request while brokers are unavailable
AWAY_PAUSE_S = 0.5
DAY_MS = 86_400_000
RETENTION_FLOOR_FACTOR = 20  # minimum retention of `updates`, in multiples of FLUSH_DELAY_S
BATCH_BYTES_MAX = 1 << 20  # librdkafka makes batches of up to 1,000,000 bytes
HEADERS_BYTES = 64 << 10  # an upper limit for the headers of a dead letter
QUERIES_KEPT_MS = 2 * DEADLINE_MAX_MS  # minimum retention of `queries`
DEAD_LETTERS_BYTES = 256 << 20  # per partition
DEAD_LETTERS_SEGMENT_BYTES = 64 << 20  # Brokers delete whole segments.
PROBES_KEPT_MS = 10 * 60_000  # retention of replies to probes
PROBES_SEGMENT_BYTES = 16 << 20
COMPACTED = {"cleanup.policy": "compact"}
# Candidates write several records per second to the rollout topic, so segments are small.
ROLLOUT_SEGMENTS = {"segment.bytes": str(4 << 20), "segment.ms": str(10 * 60_000)}
RIGHTS = "SECURITY.md lists the permissions that a worker needs"
LOGGED = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete"}


class Topic(NamedTuple):
    """The identity of a topic."""

    topic_id: uuid.UUID
    partitions: int


class Described(NamedTuple):
    """A topic, and the smallest number of replicas among its partitions."""

    topic: Topic
    replicas: int


def wanted(settings: Settings, replication: int) -> dict[str, dict[str, str]]:
    """The settings with which `readstates init` creates each topic, by topic name."""
    min_isr = str(max(1, replication - 1))
    safe = {"unclean.leader.election.enable": "false", "min.insync.replicas": min_isr}
    changes = {settings.changes_topic: changes_topic.wanted(replication)}
    return (changes if settings.tells_changes else {}) | {
        settings.updates_topic: {
            **LOGGED,
            **safe,
            "retention.ms": str(7 * DAY_MS),
            "max.message.bytes": str(BATCH_BYTES_MAX),
        },
        settings.queries_topic: {
            **LOGGED,
            "retention.ms": str(10 * 60_000),
            "max.message.bytes": str(BATCH_BYTES_MAX),
        },
        settings.dead_letters_topic: {
            **safe,
            "retention.ms": str(30 * DAY_MS),
            "retention.bytes": str(DEAD_LETTERS_BYTES),
            "segment.bytes": str(DEAD_LETTERS_SEGMENT_BYTES),
            "max.message.bytes": str(BATCH_BYTES_MAX + HEADERS_BYTES),
        },
        settings.probes_topic: {
            "retention.ms": str(PROBES_KEPT_MS),
            "segment.bytes": str(PROBES_SEGMENT_BYTES),
        },
        settings.epochs_topic: {**COMPACTED, **safe},
        rollout_topic(settings.topic_prefix): {**COMPACTED, **ROLLOUT_SEGMENTS, **safe},
    }


def topics_of(settings: Settings) -> tuple[str, ...]:
    """The names of the service's topics. If there is a change feed, its topic comes last."""
    topics = (
        settings.updates_topic,
        settings.queries_topic,
        settings.dead_letters_topic,
        settings.probes_topic,
        settings.epochs_topic,
        rollout_topic(settings.topic_prefix),
    )
    return (*topics, settings.changes_topic) if settings.tells_changes else topics


def existing(settings: Settings) -> dict[str, Described]:
    """The existing topics of the service, by name. Raises TopicError if access is denied."""
    client, found = connect_admin(settings), dict[str, Described]()
    for name in topics_of(settings):
        try:
            one = described(client, name)
        except KafkaAwayError:
            raise
        except TopicError as exc:
            raise TopicError(
                f"cannot create topic {name} or check whether it exists: {exc}"
            ) from exc
        if one is not None:
            found[name] = one
    return found


def create(settings: Settings, partitions: int, replication: int) -> list[str]:
    """Create the missing topics; returns their names. This is safe to repeat."""
    client = connect_admin(settings)
    updates = described(client, settings.updates_topic)
    counts = {
        settings.probes_topic: 1,
        settings.epochs_topic: 1,
        rollout_topic(settings.topic_prefix): 1,
        settings.changes_topic: updates.topic.partitions if updates else partitions,
    }
    topics = [
        NewTopic(name, counts.get(name, partitions), replication, config=config)
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
            for name in topics_of(settings):
                describe(client, name)
        except TopicError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def wait_for_partitions(client: AdminClient, name: str, partitions: int) -> None:
    """Wait until the brokers report this number of partitions for a topic."""
    end = time.monotonic() + TIMEOUT_S
    while describe(client, name).partitions != partitions:
        if time.monotonic() > end:
            raise TopicError(f"{name} does not have {partitions} partitions after {TIMEOUT_S} s")
        time.sleep(0.1)


def describe(client: AdminClient, name: str) -> Topic:
    """Topic ID and partition count. Raises TopicError if the topic does not exist."""
    found = described(client, name)
    if found is None:
        raise TopicError(missing(name))
    return found.topic


def missing(name: str) -> str:
    """The error text for a topic that does not exist."""
    return (
        f"topic {name} does not exist. If it never existed, run: readstates init. If somebody "
        "deleted it, see updates_deleted or queries_deleted in ops/runbooks/ReadStatesDeviation.md"
    )


def described(
    client: AdminClient, name: str, patience_s: float = AWAY_TIMEOUT_S
) -> Described | None:
    """Describe a topic; None if it does not exist.

    Raises TopicError if the brokers refuse, or if they do not answer within `patience_s`.
    """

    def ask() -> Any:
        topics = TopicCollection([name])
        future = client.describe_topics(topics, request_timeout=TIMEOUT_S)[name]
        return future.result(timeout=TIMEOUT_S + 1)

    try:
        description = _answer(ask, f"topic {name}", patience_s)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise TopicError(f"topic {name}: {exc}. {RIGHTS}") from exc
    high, low = (
        description.topic_id.get_most_significant_bits(),
        description.topic_id.get_least_significant_bits(),
    )
    mask = (1 << 64) - 1
    topic_id = uuid.UUID(int=((high & mask) << 64) | (low & mask))
    replicas = min(len(partition.replicas) for partition in description.partitions)
    return Described(Topic(topic_id, len(description.partitions)), replicas)


def needed(
    settings: Settings, record_bytes_max: int, replicas: Mapping[str, int]
) -> dict[str, dict[str, Rule]]:
    """The rules that prevent loss or corruption of data, by topic and by name of the setting.

    `record_bytes_max` is the `max.message.bytes` of `updates`. `replicas` is the number of replicas
    of each topic, by name.
    """
    floor_ms = int(max(3600.0, settings.flush_delay_s * RETENTION_FLOOR_FACTOR) * 1000)
    stamped = Rule(TIMESTAMP_TYPE, "LogAppendTime", "deadlines and lag need broker timestamps")
    whole = Rule(CLEANUP_POLICY, "delete", "compaction would delete records that are needed")

    def safe(topic: str) -> Rule:
        copies = replicas[topic]
        why = "if it is lower, a failure may lose acknowledged records; if it is higher than the "
        why += f"{copies} replicas, no producer can write"
        return Rule(MIN_ISR, str(max(1, min(copies - 1, 2))), why, at_most=copies)

    feed = settings.changes_topic
    rules = {feed: changes_topic.needed(replicas[feed])} if settings.tells_changes else {}
    return rules | {
        settings.updates_topic: {
            "cleanup.policy": whole,
            "message.timestamp.type": stamped,
            "unclean.leader.election.enable": Rule(
                UNCLEAN_ELECTION, "false", "an unclean election loses acknowledged records"
            ),
            "min.insync.replicas": safe(settings.updates_topic),
            "retention.ms": Rule(
                RETENTION,
                str(floor_ms),
                "Kafka must keep each update until Cassandra has it",
                at_least=True,
            ),
        },
        settings.queries_topic: {
            "cleanup.policy": whole,
            "message.timestamp.type": stamped,
            "retention.ms": Rule(
                RETENTION,
                str(QUERIES_KEPT_MS),
                "Kafka must keep each query until its deadline",
                at_least=True,
            ),
        },
        settings.dead_letters_topic: {
            "cleanup.policy": whole,
            "min.insync.replicas": safe(settings.dead_letters_topic),
            "retention.bytes": Rule(
                RETENTION_BYTES,
                str(DEAD_LETTERS_BYTES),
                "updates that cannot be applied would fill the brokers' disks",
                limited=True,
            ),
            "max.message.bytes": Rule(
                RECORD_SIZE,
                str(record_bytes_max + HEADERS_BYTES),
                "a dead letter that is too large would block its partition's commits for ever",
                at_least=True,
            ),
        },
        settings.epochs_topic: {
            "cleanup.policy": _compacted("the history of epochs"),
            "min.insync.replicas": safe(settings.epochs_topic),
        },
        rollout_topic(settings.topic_prefix): {
            "cleanup.policy": _compacted("the candidates and their shares")
        },
    }


def _compacted(what: str) -> Rule:
    return Rule(CLEANUP_POLICY, "compact", f"retention would delete {what}")


def mend(settings: Settings) -> list[str]:
    """Correct the settings of existing topics; returns a list of the changes."""
    client = connect_admin(settings)
    record_max = int(configs_of(client, settings.updates_topic)["max.message.bytes"])
    replicas = {name: one.replicas for name, one in existing(settings).items()}
    done = []
    for name, required in needed(settings, record_max, replicas).items():
        configs = configs_of(client, name)
        wrong = {key: rule for key, rule in required.items() if not rule.holds(configs[key])}
        if not wrong:
            continue
        entries = [
            ConfigEntry(key, rule.value, incremental_operation=AlterConfigOpType.SET)
            for key, rule in wrong.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        (future,) = client.incremental_alter_configs([resource]).values()
        try:
            future.result(timeout=TIMEOUT_S)
        except KafkaException as exc:
            raise TopicError(f"cannot set {', '.join(wrong)} of topic {name}: {exc}") from exc
        done += [f"{name}: {key}={rule.value}" for key, rule in wrong.items()]
    return done


def configs_of(
    client: AdminClient, topic: str, patience_s: float = AWAY_TIMEOUT_S
) -> dict[str, str]:
    """The settings of an existing topic. Raises TopicError as `described` does.

    A broker may not know a new topic yet, so this repeats the request for up to UNKNOWN_S.
    """
    known_by = time.monotonic() + min(patience_s, UNKNOWN_S)

    def ask() -> Any:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        while True:
            (future,) = client.describe_configs([resource], request_timeout=TIMEOUT_S).values()
            try:
                return future.result(timeout=TIMEOUT_S + 1)
            except KafkaException as exc:
                is_unknown = exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
                if not is_unknown or time.monotonic() >= known_by:
                    raise
            time.sleep(AWAY_PAUSE_S)

    try:
        configs = _answer(ask, f"the settings of topic {topic}", patience_s)
    except KafkaException as exc:
        raise TopicError(
            f"cannot read the settings of topic {topic}: {exc}. The permission DescribeConfigs may "
            f"be missing. {RIGHTS}"
        ) from exc
    return {name: entry.value for name, entry in configs.items()}


def _answer(ask: Callable[[], Any], what: str, patience_s: float) -> Any:
    """Send a request, and repeat it while brokers or the controller are unavailable.

    Raises KafkaException if Kafka answers with an error. Raises KafkaAwayError, a TopicError, if
    Kafka does not answer within `patience_s`.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except (KafkaException, TimeoutError) as exc:
            if isinstance(exc, KafkaException) and exc.args[0].code() not in AWAY:
                raise
            if time.monotonic() > end:
                raise KafkaAwayError(
                    f"{what}: Kafka did not answer within {patience_s:g} s ({exc}). Check that all "
                    "brokers and a controller are running, then start this program again"
                ) from exc
            log.warning("kafka_away waiting_for=%r error=%r", what, str(exc))
        time.sleep(AWAY_PAUSE_S)


AWAY = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_CONTROLLER,
    KafkaError.REQUEST_TIMED_OUT,
}
