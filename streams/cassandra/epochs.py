"""The log that the database was written from, and the offsets at which the present epoch begins.

Cassandra's table `log` has one row for each updates topic: the epoch, the topic's ID, its partition
count, and the first offset of each partition that belongs to the epoch. Only the row with the
largest epoch counts. `commands/new_epoch.py` begins an epoch.

**E1** a record is folded with the version of its own epoch or not at all. One below the present
epoch's first offset of its partition was written to Cassandra in an earlier epoch, as a record of
other partitions or of another topic. Folded with the present epoch, it would get a version above
every version that the earlier epoch wrote: the service would take it for a new record, apply it
again, and reject it if its user has moved to another partition.

Workers know the present epoch alone. So for them, going back in the log is safe as far as the first
offset: `readstates rewind` refuses to go further, and a worker that finds a commit below it refuses
to start (`worker/opening.py`). `readstates restore` knows all epochs (`restore/history.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from ..deviations import DATABASE_REPLACED, Found
from ..errors import EpochError
from .database import Database, another_database, said_in


class Log(NamedTuple):
    """A log that the keyspace was written from."""

    epoch: int
    topic_id: uuid.UUID
    partitions: int
    first_offsets: tuple[int, ...]  # by partition; empty if an earlier version began the epoch
    began_us: int  # about when the epoch was claimed: the row's write time, µs since 1970
    database_id: uuid.UUID | None = None  # None if only an earlier version claimed the epoch

    @property
    def began_at(self) -> str:
        """When the epoch was claimed, to the second, in UTC."""
        return f"{datetime.fromtimestamp(self.began_us // 10**6, UTC):%Y-%m-%dT%H:%M:%S}"

    @property
    def database(self) -> Database:
        """The keyspace, to be told from another."""
        return Database(self.epoch, self.database_id, self.began_us)

    @property
    def said(self) -> str:
        """The epoch in an error's text."""
        return f"epoch {self.epoch} (since {self.began_at} UTC)"


def last_topic(logs: Mapping[str, Log]) -> str | None:
    """The log that the keyspace was written from last; None if it was never written."""
    return max(logs, key=lambda name: logs[name].epoch, default=None)


def is_last(logs: Mapping[str, Log], name: str, topic_id: uuid.UUID, partitions: int) -> bool:
    """True if the keyspace's present log is this topic, with this ID and partition count."""
    log = logs.get(name)
    return log is not None and name == last_topic(logs) and log[1:3] == (topic_id, partitions)


def present_log(
    logs: Mapping[str, Log], name: str, topic_id: uuid.UUID, partitions: int, keyspace: str
) -> Log:
    """The keyspace's log, if it is this topic and its first offsets are known.

    Raises EpochError if the keyspace was last written from another topic or partition count, or if
    the first offsets are not known.
    """
    last = last_topic(logs)
    if last is None:
        raise EpochError(f"{keyspace} was never written from any topic. Run: readstates init")
    if not is_last(logs, name, topic_id, partitions):
        log = logs[last]
        raise EpochError(
            f"{name} has topic ID {topic_id} and {partitions} partitions, but {keyspace} was last "
            f"written from {last}, topic ID {log.topic_id} with {log.partitions} partitions "
            f"(epoch {log.epoch}). Offsets would run backwards and new changes would be taken for "
            "old ones. Point KAFKA_BOOTSTRAP, TOPIC_PREFIX and CASSANDRA_KEYSPACE at each other; "
            "if the log was replaced on purpose and the old one is written out, run: readstates "
            "init --new-epoch"
        )
    log = logs[name]
    if not log.first_offsets:
        raise EpochError(unknown_first_offsets(name, log))
    return log


def unknown_first_offsets(name: str, log: Log) -> str:
    """The error if an earlier version of the service began the epoch; it says what to do."""
    return (
        f"{name}: an earlier version began {log.said} and did not keep its first offsets, so a "
        "record of an earlier epoch cannot be told from one of this epoch. Run: readstates init"
    )


def database_id_of(logs: Mapping[str, Log]) -> uuid.UUID:
    """The keyspace's ID; a new one if it has none."""
    newest_first = sorted(logs.values(), key=lambda log: -log.epoch)
    return next((log.database_id for log in newest_first if log.database_id), None) or uuid.uuid4()


def judge_log(logs: Mapping[str, Log], began: Log, name: str, keyspace: str) -> Iterator[Found]:
    """What is wrong if the keyspace is not the one that a worker started with, at `began`."""
    log = logs.get(name)
    if log is None or last_topic(logs) != name or log.database.name != began.database.name:
        now = "no epoch" if log is None else log.database.said
        yield Found(DATABASE_REPLACED, another_database(keyspace, now, began.database.said))


def check_commit_of(metadata: str, log: Log, keyspace: str) -> str:
    """The text if a commit was made over another database than `log` is in; otherwise empty."""
    if not log.database.is_other_than(metadata):
        return ""
    return another_database(keyspace, log.database.said, said_in(metadata))
