"""Compares the service's topics with what they must be: at a start, while running, in `status`."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from readstates.schemas.rollout import rollout_topic

from .. import metrics
from ..config import Settings
from ..deviations import (
    CHANGES_DELETED,
    CHANGES_PARTITIONS,
    DEAD_LETTERS_DELETED,
    EPOCHS_MISSING,
    PROBES_MISSING,
    QUERIES_DELETED,
    QUERIES_PARTITIONS,
    QUERIES_REPLACED,
    UPDATES_DELETED,
    UPDATES_PARTITIONS,
    UPDATES_REPLACED,
    Found,
)
from ..errors import KafkaAwayError, TopicError
from .admin import connect_admin
from .cluster import Cluster
from .strangers import strangers
from .topics import (
    AWAY_TIMEOUT_S,
    Described,
    Topic,
    configs_of,
    described,
    missing,
    needed,
    topics_of,
)

log = logging.getLogger(__name__)

TRY_S = 5.0  # for which one client asks the same again; a request under way may take longer
RENEW_AFTER = 3  # looks in a row without an answer, after which another client asks
QUIET = {"client.id": "read-states-watch", "log_level": 0, "error_cb": lambda _error: None}


class Seen(NamedTuple):
    """What the brokers say of the topics that exist, by name."""

    topics: dict[str, Described]
    configs: dict[str, dict[str, str]]


def look(client: AdminClient, settings: Settings, patience_s: float = AWAY_TIMEOUT_S) -> Seen:
    """Ask the brokers. Raises TopicError if they refuse, or do not answer within `patience_s`."""
    topics, configs = dict[str, Described](), dict[str, dict[str, str]]()
    optional = (
        settings.probes_topic, settings.epochs_topic, rollout_topic(settings.topic_prefix)
    )  # fmt: skip
    for name in topics_of(settings):
        is_optional = name in optional
        try:
            one = described(client, name, patience_s)
        except KafkaAwayError:
            raise
        except TopicError:
            if not is_optional:
                raise
            continue
        if one is not None:
            topics[name] = one
            if not is_optional:
                configs[name] = configs_of(client, name, patience_s)
    return Seen(topics, configs)


def judge(settings: Settings, seen: Seen) -> Iterator[Found]:
    """What is not as it must be, whichever worker looks; the worst comes first."""
    updates, queries, dead_letters, probes, epochs, _rollout, *feed = map(
        seen.topics.get, topics_of(settings)
    )
    if updates is None:
        yield Found(UPDATES_DELETED, missing(settings.updates_topic))
    if queries is None:
        yield Found(QUERIES_DELETED, _missing(settings.queries_topic))
    if dead_letters is None:
        yield Found(DEAD_LETTERS_DELETED, _missing(settings.dead_letters_topic))
    if probes is None and settings.probe_interval_s:
        yield Found(
            PROBES_MISSING,
            f"topic {settings.probes_topic} does not exist, or this worker may not use it, so the "
            "worker does not test whether it answers. Run: readstates init",
        )
    if epochs is None:
        yield Found(
            EPOCHS_MISSING,
            f"topic {settings.epochs_topic} does not exist, or this worker may not use it, so the "
            "history of epochs is in Cassandra alone. Run: readstates init",
        )
    for changes in feed:
        if changes is None:
            yield Found(
                CHANGES_DELETED,
                f"{_missing(settings.changes_topic)} --changes on. Without the change feed, set "
                "CHANGES to off",
            )
        elif updates and updates.topic.partitions != changes.topic.partitions:
            yield Found(CHANGES_PARTITIONS, _changes_count(settings, updates.topic, changes.topic))
    if updates and queries and updates.topic.partitions != queries.topic.partitions:
        yield Found(QUERIES_PARTITIONS, _other_counts(settings, updates.topic, queries.topic))
    if updates is None:
        return
    record_max = int(seen.configs[settings.updates_topic]["max.message.bytes"])
    replicas = dict.fromkeys(topics_of(settings), 1)
    replicas |= {name: one.replicas for name, one in seen.topics.items()}
    for name, required in needed(settings, record_max, replicas).items():
        for setting, rule in required.items():
            value = seen.configs.get(name, {}).get(setting, rule.value)
            if not rule.holds(value):
                yield Found(
                    rule.name,
                    f"{name}: {setting} is {value!r}, but must be {rule.said}: {rule.why}. Set it "
                    "with: readstates init",
                )


class Topics:
    """The topics under a running worker. Only one thread calls `look`, which blocks.

    `began`: the updates topic when the worker started.
    """

    def __init__(self, settings: Settings, began: Topic) -> None:
        self._settings, self._began = settings, began
        self._client: AdminClient | None = None
        self._strangers: list[Found] = []
        self._unanswered = 0  # looks in a row
        self._ids: dict[str, uuid.UUID] = {}  # of the other topics, as they were seen last

    def look(self) -> tuple[list[Found], list[str]]:
        """What is wrong, and the names of topics that were made anew since the last look.

        Raises TopicError if the brokers do not say.
        """
        if self._client is None:
            self._client = AdminClient(self._settings.librdkafka(**QUIET), logger=log)
        try:
            seen = look(self._client, self._settings, patience_s=0)
        except TopicError as exc:
            self._note_unanswered(exc)
            raise
        anew = []
        for name, one in seen.topics.items():
            if name != self._settings.updates_topic:
                if self._ids.setdefault(name, one.topic.topic_id) != one.topic.topic_id:
                    anew.append(name)
                self._ids[name] = one.topic.topic_id
        found = [*judge(self._settings, seen), *self._changes(seen, anew)]
        return [*found, *self._look_for_strangers(self._client)], anew

    def _look_for_strangers(self, client: AdminClient) -> list[Found]:
        """What is wrong with the group; what was known of it while its coordinator is away."""
        try:
            self._strangers = strangers(client, self._settings, TRY_S)
            self._unanswered = 0
        except (KafkaException, TimeoutError) as exc:
            self._note_unanswered(exc)
        return self._strangers

    def _note_unanswered(self, exc: Exception) -> None:
        """Ask with another client if the fault may be with this one, as in `check`.

        An admin client goes on asking a coordinator that is none any more: NOT_COORDINATOR.
        """
        self._unanswered += 1
        if self._unanswered == RENEW_AFTER:
            self._unanswered, self._client = 0, None
            metrics.CLIENTS_RENEWED.labels("watch").inc()
            log.warning(
                "client_renewed client=watch why=%r: the watch asks with another client", str(exc)
            )

    def _changes(self, seen: Seen, anew: list[str]) -> Iterator[Found]:
        settings, began = self._settings, self._began
        updates = seen.topics.get(settings.updates_topic)
        if updates and updates.topic.topic_id != began.topic_id:
            yield Found(UPDATES_REPLACED, replaced(settings.updates_topic))
        elif updates and updates.topic.partitions != began.partitions:
            yield Found(UPDATES_PARTITIONS, more_partitions(settings, began.partitions))
        if settings.queries_topic in anew:
            yield Found(
                QUERIES_REPLACED,
                f"topic {settings.queries_topic} was deleted and created anew. The worker reads "
                "the new one from its beginning. Restart clients that get no replies any more: "
                "librdkafka may keep the leaders of the old topic. And find out who did it",
            )


def check(settings: Settings, cluster: Cluster | None = None) -> Topic:
    """Check the topics for a start; raises TopicError, which says what is wrong and what to do.

    `cluster`: gets the ID of the cluster that has these topics.

    An admin client may wait for a controller that is gone, although there is another one. So each
    try has a client of its own.
    """
    end = time.monotonic() + AWAY_TIMEOUT_S
    while True:
        try:
            client = connect_admin(settings)
            seen = look(client, settings, patience_s=TRY_S)
            if cluster is not None:
                cluster.id = _cluster_id(client)
            break
        except KafkaAwayError as exc:
            if time.monotonic() > end:
                raise
            log.warning("kafka_away error=%r: trying again with another client", str(exc))
    for found in judge(settings, seen):
        # Earlier versions had no such topics; the watch reports it.
        if found.name not in (PROBES_MISSING, EPOCHS_MISSING):
            raise TopicError(found.text)
    return seen.topics[settings.updates_topic].topic


def _cluster_id(client: AdminClient) -> str:
    """Raises KafkaAwayError if no broker says it."""
    try:
        return str(client.list_topics(timeout=TRY_S).cluster_id or "")
    except KafkaException as exc:
        raise KafkaAwayError(f"the cluster's ID: {exc}") from exc


def more_partitions(settings: Settings, before: int) -> str:
    """The text if partitions were added under a running worker."""
    return (
        f"{settings.updates_topic} got more partitions than {before} while this worker was "
        "running: users belong to other partitions now. Stop producers and workers, then run: "
        "readstates init --new-epoch"
    )


def replaced(topic: str) -> str:
    """The text if the updates topic was replaced under a running worker."""
    return (
        f"topic {topic} was deleted and created anew while this worker was running. The worker "
        "stops; when started again, it will say what to do"
    )


def _missing(topic: str) -> str:
    return f"topic {topic} does not exist. Run: readstates init"


def _changes_count(settings: Settings, updates: Topic, changes: Topic) -> str:
    return (
        f"{settings.updates_topic} has {updates.partitions} partitions and "
        f"{settings.changes_topic} {changes.partitions}: they must have the same number, because "
        "the changes of a partition go to the partition of the same number. If the change feed has "
        "fewer, add partitions to it with kafka-topics.sh --alter. If it has more, delete it and "
        "run: readstates init --changes on"
    )


def _other_counts(settings: Settings, updates: Topic, queries: Topic) -> str:
    return (
        f"{settings.updates_topic} has {updates.partitions} partitions and "
        f"{settings.queries_topic} {queries.partitions}: they must have the same number, or a "
        "user's queries would go to another worker than its updates. Delete "
        f"{settings.queries_topic} (only queries under way are lost) and run: readstates init "
        f"--partitions "
        f"{updates.partitions}. If you want more partitions, follow "
        "ops/runbooks/change-partitions.md, which ends with: readstates init --new-epoch "
        f"--partitions {max(updates.partitions, queries.partitions)}"
    )
