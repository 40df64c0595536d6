"""The history of epochs, which Cassandra and Kafka each keep: read, compared, and kept in both.

Kafka's copy is a topic of its own rather than the metadata of commits: Kafka limits metadata to
4 KiB, which the first offsets of a few hundred partitions exceed, and forgets it with the group.

A database that knows less than Kafka's copy is an older one, or a new one: a backup was put back,
or the keyspace was lost. An epoch that it began would have the number of one that was written
before, and the records in between would be left out. So whoever would write to such a database is
refused, until `readstates restore` has brought it up to date.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from readstates.schemas.epoch_history import History, HistoryError, merged

from ..cassandra.epoch_table import epochs_of, read_table, write_table
from ..cassandra.epochs import Log
from ..cassandra.store import PATIENCE_S, Store
from ..config import Settings
from ..errors import EpochError, EpochsTopicError, SchemaMissingError
from ..kafka.epochs_topic import read_epochs, write_epochs
from ..kafka.topics import Topic

log = logging.getLogger(__name__)


class Known(NamedTuple):
    """What each of the two copies says."""

    database: History  # Cassandra's table `epochs`
    present: History  # Cassandra's table `log`
    topic: History  # Kafka's

    @property
    def all(self) -> History:
        """Every epoch that is known, in order. Raises EpochError if the two contradict each other.

        The times at which epochs began are those of the copies, because they do not change.
        """
        try:
            return merged(merged(self.topic, self.database), self.present)
        except HistoryError as exc:
            raise EpochError(
                f"Kafka and Cassandra have different histories of the epochs: {exc}. They do not "
                "belong together. Point KAFKA_BOOTSTRAP, TOPIC_PREFIX, CASSANDRA_HOSTS and "
                "CASSANDRA_KEYSPACE at each other"
            ) from exc


def known_epochs(settings: Settings, store: Store, topic: History | None = None) -> Known:
    """Read both copies; `topic` is Kafka's, if it was read already.

    Raises StoreError, EpochsTopicError and EpochError.
    """
    if topic is None:
        topic = topic_epochs(settings)
    logs = store.logs()
    return Known(read_table(store), epochs_of(logs), topic)


def known_before_restore(settings: Settings, store: Store) -> History:
    """Every epoch that is known, in order, though the whole keyspace may be lost.

    Raises StoreError, EpochError, and EpochsTopicError if Kafka's copy cannot be read: without it,
    nobody would notice that an older database does not know the last epochs.
    """
    topic = topic_epochs(settings)
    database, present = History(), History()
    try:
        present = epochs_of(store.logs(PATIENCE_S))
        database = read_table(store)
    except SchemaMissingError:
        pass  # of an earlier version, or not there: the restore creates it
    return Known(database, present, topic).all


def topic_epochs(settings: Settings) -> History:
    """Kafka's copy. Raises EpochsTopicError, and EpochError if the topic has other records."""
    try:
        return read_epochs(settings)
    except HistoryError as exc:
        raise EpochError(f"{settings.epochs_topic}: {exc}") from exc


def refuse_older(settings: Settings, logs: Mapping[str, Log], topic: History) -> None:
    """Raises EpochError if Kafka's copy knows a later epoch than the database."""
    last = max((log.epoch for log in logs.values()), default=0)
    later = [epoch for number, epoch in sorted(topic.items()) if number > last]
    if not later:
        return
    keyspace = settings.cassandra_keyspace
    has = f"its last epoch is {last}" if last else "it has no epoch"
    raise EpochError(
        f"{keyspace} is not the database that was last written from this log: {has}, but "
        f"{later[-1].said} was written to it. Either a backup from before that epoch was put back, "
        "or the keyspace was lost, or CASSANDRA_HOSTS leads to another cluster. No epoch was "
        "begun. Stop all workers and run: readstates restore. To begin with an empty database "
        "instead, set another CASSANDRA_KEYSPACE"
    )


def keep(settings: Settings, store: Store, topic: History | None = None) -> None:
    """Write to each copy what it lacks. Costs one read of each if nothing is missing.

    `topic`: as for `known_epochs`. Raises as that does.
    """
    known = known_epochs(settings, store, topic)
    every = known.all
    in_table = [epoch for number, epoch in every.items() if number not in known.database]
    in_topic = [epoch for number, epoch in every.items() if number not in known.topic]
    if in_table:
        write_table(store, in_table)
    if in_topic:
        write_epochs(settings, in_topic)


def claim(settings: Settings, store: Store, topic: Topic, read: Callable[[], History]) -> Log:
    """The epoch that a worker folds, which is then kept in both copies.

    `read` gives Kafka's copy. A worker whose database has an epoch does without the copy if the
    topic is missing or may not be used, and the watch reports that. Raises EpochError,
    EpochsTopicError and StoreError: all mean "refuse to start".
    """
    name, logs = settings.updates_topic, store.logs(PATIENCE_S)
    try:
        in_kafka = read()
    except EpochsTopicError as exc:
        if not logs:
            raise
        log.warning("epochs_not_kept error=%r", str(exc))
        return store.claim_epoch(name, *topic)
    refuse_older(settings, logs, in_kafka)
    claimed = store.claim_epoch(name, *topic)
    try:
        keep(settings, store, in_kafka)
    except (EpochsTopicError, SchemaMissingError) as exc:
        log.warning("epochs_not_kept error=%r", str(exc))
    return claimed
