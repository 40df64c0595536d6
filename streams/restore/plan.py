"""What a restore folds: of each epoch, the part of each partition's log that belongs to it.

An epoch's records in a partition begin at the epoch's first offset. They end where the next epoch
of the same topic begins or, in its last epoch, at the log's end when the restore begins. The epochs
follow one another; so for each user, whose records of an epoch are all in one partition, the
records come in the order of their versions.

With the time of the backup, the records that are certainly in it are left out: all epochs before
the one in which the backup was taken, because an epoch begins only when everything before it is in
Cassandra, and the records that are older than the backup by BEFORE_BACKUP_S.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from readstates.schemas.epoch_history import Epoch, History
from readstates.schemas.version import EPOCH_FIRST

from ..errors import RestoreError

BEFORE_BACKUP_S = 3600  # what is older than that before a backup was written out long before it


class TopicLog(NamedTuple):
    """What Kafka has of an updates topic, by partition."""

    topic_id: uuid.UUID
    starts: Sequence[int]
    ends: Sequence[int]  # of what may be read: transactions that are open follow
    since: Sequence[int]  # the first record that may be missing in the backup; the start of the log
    # or below if nothing is known of the backup


class Span(NamedTuple):
    """A partition's records of one epoch: those at `begin` … `end` - 1 are folded."""

    number: int
    begin: int
    end: int
    missing: int = 0  # records that the log does not have, and the backup may not have


class Part(NamedTuple):
    """An epoch, and what is folded of it."""

    epoch: Epoch
    spans: tuple[Span, ...]

    @property
    def records(self) -> int:
        """How many offsets are folded; control records are among them."""
        return sum(span.end - span.begin for span in self.spans)


class Plan(NamedTuple):
    """The epochs that are folded, in order, and what nobody has any more, one sentence each."""

    parts: tuple[Part, ...]
    missing: tuple[str, ...]

    @property
    def records(self) -> int:
        return sum(part.records for part in self.parts)


def plan_of(history: History, logs: Mapping[str, TopicLog], backup_ms: int | None) -> Plan:
    """The plan; `logs`: of the topics in the history that exist, by name.

    `backup_ms`: when the backup began, in ms since 1970; None if the database may have nothing.
    Raises RestoreError if an open transaction hides records of an epoch that is over.
    """
    parts, missing = [], []
    last = max(history, default=0)
    for number in range(min([EPOCH_FIRST, *history]), last + 1):
        if _is_in_backup(history, number, backup_ms):
            continue
        epoch = history.get(number)
        if epoch is None:
            missing.append(
                f"epoch {number} is not in the history of epochs: an earlier version began it, so "
                "it is not known which records belong to it, and none of them is folded"
            )
            continue
        log = logs.get(epoch.topic)
        if log is None or log.topic_id != epoch.topic_id:
            missing.append(f"{epoch.said}: the topic was deleted, so none of its records is folded")
            continue
        part = Part(epoch, tuple(_spans(history, epoch, log, backup_ms)))
        parts.append(part)
        missing += [
            f"{epoch.said}: partition {span.number} has lost {span.missing} records from before "
            f"offset {span.begin}"
            for span in part.spans
            if span.missing
        ]
    return Plan(tuple(parts), tuple(missing))


def _is_in_backup(history: History, number: int, backup_ms: int | None) -> bool:
    following = min((one for one in history if one > number), default=None)
    if following is None or backup_ms is None:
        return False
    return history[following].began_us // 1000 <= backup_ms - BEFORE_BACKUP_S * 1000


def _spans(history: History, epoch: Epoch, log: TopicLog, backup_ms: int | None) -> Iterator[Span]:
    later = [
        one
        for number, one in sorted(history.items())
        if number > epoch.epoch and one.is_of(epoch.topic, epoch.topic_id)
    ]
    for number, first in enumerate(epoch.first_offsets):
        start, end = log.starts[number], log.ends[number]
        if later:
            end = later[0].first_offsets[number]
            if end > log.ends[number]:
                raise RestoreError(
                    f"{epoch.topic} partition {number} cannot be read beyond offset "
                    f"{log.ends[number]}, because a transaction is open there: end it first. See "
                    "open_transaction in ops/runbooks/ReadStatesDeviation.md"
                )
        since = log.since[number]
        begin = min(max(first, start, since), end)
        # If the log begins with a record from before the backup, then what is gone is older still.
        is_lost = start > first and (backup_ms is None or since <= start)
        yield Span(number, begin, end, max(0, min(start, end) - first) if is_lost else 0)
