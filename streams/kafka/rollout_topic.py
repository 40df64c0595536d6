"""The candidates and their shares in Kafka: a compacted topic of one partition.

`schemas/rollout.py` describes its records. Commands read it whole; workers follow it
(`rollout/follower.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

from readstates.schemas.rollout import (
    Beat,
    Candidate,
    RolloutRecordError,
    decode_rollout,
    names_in,
    rollout_topic,
)

from ..config import Settings
from ..errors import RolloutError
from .topics import RIGHTS
from .whole_topic import read_whole, write_whole


class Beaten(NamedTuple):
    """A beat, and the record's timestamp: ms since 1970, by the clock of whoever sent it."""

    beat: Beat
    at_ms: int


class Rollouts(NamedTuple):
    """What the topic says now."""

    candidates: dict[str, Candidate]  # by group
    beats: dict[tuple[str, str], Beaten]  # the last of each worker that has not stopped
    control: int  # the offset of the newest candidate's record; -1 without one


def read_rollouts(settings: Settings) -> Rollouts:
    """Read the topic. Raises RolloutError. A record that cannot be read counts as none."""
    found = Rollouts({}, {}, -1)
    name = rollout_topic(settings.topic_prefix)
    for message in read_whole(settings, name, partial(_refused, settings)):
        key, value, offset = message.key() or b"", message.value(), message.offset() or 0
        group, worker = names_in(key)
        if value is None:
            _ = found.beats.pop((group, worker), None) if worker else None
        try:
            record = None if value is None else decode_rollout(key, value)
        except RolloutRecordError:
            record = None
        if isinstance(record, Beat):
            kind, at_ms = message.timestamp()
            at_ms = 0 if kind == TIMESTAMP_NOT_AVAILABLE else at_ms
            found.beats[group, worker] = Beaten(record, at_ms)
        elif not worker:
            found.candidates.pop(group, None)
            if record is not None:
                found.candidates[group] = record
            found = found._replace(control=offset)
    return found


def write_rollouts(settings: Settings, records: Iterable[tuple[bytes, bytes | None]]) -> int:
    """Write records; returns the largest of their offsets. Raises RolloutError."""
    name = rollout_topic(settings.topic_prefix)
    return write_whole(settings, name, records, partial(_refused, settings))


def _refused(settings: Settings, what: str, error: object) -> RolloutError:
    return RolloutError(
        f"topic {rollout_topic(settings.topic_prefix)}, which keeps the candidates and their "
        f"shares, cannot be {what}: {error}. If it does not exist, run: readstates init. {RIGHTS}"
    )
