"""The history of a keyspace's epochs, and the form in which Kafka keeps it.

An epoch is one log: a topic ID and a partition count. Each has its first offset in each partition.
So the history says to which epoch a record of the log belongs, and which version it has. A restore
of the database needs it, also after the database is lost. Therefore the history is kept twice: in
Cassandra's table `epochs`, and in the compacted topic `<TOPIC_PREFIX>.epochs`. There, the key of a
record is `<keyspace>/<epoch>` in ASCII, and the value is a JSON object with the fields of `Epoch`;
IDs and offsets are decimal strings.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import orjson


class Epoch(NamedTuple):
    """One epoch, which never changes once it has begun."""

    epoch: int
    topic: str  # the updates topic
    topic_id: uuid.UUID
    partitions: int
    first_offsets: tuple[int, ...]  # by partition: records below belong to an epoch before
    began_us: int  # µs since 1970

    @property
    def began_at(self) -> str:
        """When the epoch began, to the second, in UTC."""
        return f"{datetime.fromtimestamp(self.began_us // 10**6, UTC):%Y-%m-%dT%H:%M:%S}"

    @property
    def said(self) -> str:
        """The epoch in a message."""
        return (
            f"epoch {self.epoch} of {self.topic} (topic ID {self.topic_id}, {self.partitions} "
            f"partitions, since {self.began_at} UTC)"
        )

    def is_of(self, topic: str, topic_id: uuid.UUID) -> bool:
        """True if its log is this topic."""
        return (self.topic, self.topic_id) == (topic, topic_id)


History = dict[int, Epoch]  # by the epoch's number


class HistoryError(ValueError):
    """A record is no epoch, or two epochs have one number; the text names them."""


def key_of(keyspace: str, epoch: int) -> bytes:
    """The key of an epoch's record."""
    return f"{keyspace}/{epoch}".encode()


def encode_epoch(epoch: Epoch) -> bytes:
    """The value of an epoch's record."""
    body = {
        **epoch._asdict(),
        "topic_id": str(epoch.topic_id),
        "first_offsets": list(map(str, epoch.first_offsets)),
        "began_us": str(epoch.began_us),
    }
    return orjson.dumps(body)


def decode_epoch(key: bytes, value: bytes, keyspace: str) -> Epoch | None:
    """The epoch in a record; None if it is another keyspace's. Raises HistoryError."""
    name, _, _ = key.decode(errors="replace").rpartition("/")
    if name != keyspace:
        return None
    try:
        body = orjson.loads(value)
        epoch = Epoch(
            int(body["epoch"]),
            str(body["topic"]),
            uuid.UUID(body["topic_id"]),
            int(body["partitions"]),
            tuple(map(int, body["first_offsets"])),
            int(body["began_us"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise HistoryError(f"the record {key!r} is not an epoch: {exc!r}") from None
    if key != key_of(keyspace, epoch.epoch) or len(epoch.first_offsets) != epoch.partitions:
        raise HistoryError(f"the record {key!r} is not an epoch: {value!r}")
    return epoch


def merged(one: Mapping[int, Epoch], other: Mapping[int, Epoch]) -> History:
    """The epochs of both, in order. Raises HistoryError if they say different things of one.

    Where only the time of the beginning differs, that of `one` counts.
    """
    for number in one.keys() & other.keys():
        if one[number][:-1] != other[number][:-1]:
            raise HistoryError(f"{one[number].said} is also {other[number].said}")
    return dict(sorted({**other, **one}.items()))
