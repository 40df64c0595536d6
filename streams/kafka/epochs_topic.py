"""The history of epochs in Kafka: a compacted topic of one partition.

It is small: one record of less than a KiB for each epoch, and a new epoch begins only when the
partitions or the topic change. So it is read whole each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from readstates.schemas.epoch_history import (
    Epoch,
    History,
    decode_epoch,
    encode_epoch,
    key_of,
)

from ..config import Settings
from ..errors import EpochsTopicError
from .topics import RIGHTS
from .whole_topic import read_whole, write_whole


def read_epochs(settings: Settings) -> History:
    """The epochs of this keyspace that the topic knows, by number.

    Raises EpochsTopicError if the topic does not exist, cannot be read, or does not answer in time,
    and HistoryError if a record is no epoch. Costs about five requests.
    """
    found: History = {}
    for message in read_whole(settings, settings.epochs_topic, partial(_refused, settings)):
        key, value = message.key(), message.value()
        epoch = decode_epoch(key, value, settings.cassandra_keyspace) if key and value else None
        if epoch is not None:
            found[epoch.epoch] = epoch
    return found


def write_epochs(settings: Settings, epochs: Iterable[Epoch]) -> None:
    """Write these epochs into the topic. Raises EpochsTopicError unless the brokers have them all.

    An epoch that is there already is written again, which changes nothing.
    """
    keyspace = settings.cassandra_keyspace
    records = [(key_of(keyspace, epoch.epoch), encode_epoch(epoch)) for epoch in epochs]
    write_whole(settings, settings.epochs_topic, records, partial(_refused, settings))


def _refused(settings: Settings, what: str, error: object) -> EpochsTopicError:
    return EpochsTopicError(
        f"topic {settings.epochs_topic}, which keeps the history of epochs, cannot be {what}: "
        f"{error}. If it does not exist, run: readstates init. {RIGHTS}"
    )
