"""Every error of the service, and what is done about each.

ReadStatesError
├── ConfigError          refuse to start: a setting is wrong, the message names it and its range
├── TopicError           refuse to start: a topic is missing or set up wrongly
├── EpochError           refuse to start: this is not the topic the database was written from
├── GroupError           end the worker: the group does not take it, or another has its name
├── RewindError          end the command: workers run, or the log no longer goes back so far
├── DataLossError        refuse to start: Kafka no longer has records that were not yet durable
├── BatchGapError        stop the worker: records were lost between Kafka and the partition
├── UnpackError          skip the batch: it becomes a dead letter; its bytes are not of its codec
│   └── BatchTooLargeError   the same: it unpacks to more than is allowed
├── StoreError           pause and retry: Cassandra did not answer, nothing is forgotten
└── SendError            end the command: the brokers did not take a record

`readstates.schemas.wire.DecodeError` (dead-letter and go on) and
`readstates.cache.table.TableDamaged` (drop the file and replay) belong to their own packages.
"""

from __future__ import annotations


class ReadStatesError(Exception):
    """Base of all; its text says what happened, where, and what to do."""


class ConfigError(ReadStatesError):
    """A setting is outside its range, or two settings contradict each other."""


class TopicError(ReadStatesError):
    """A topic is missing, or its settings would lose or reorder data."""


class EpochError(ReadStatesError):
    """The updates topic is not the one that the database was written from."""


class GroupError(ReadStatesError):
    """The consumer group refuses this worker for good."""


class RewindError(ReadStatesError):
    """The group's commits cannot be moved back now, or not so far."""


class DataLossError(ReadStatesError):
    """The committed offset is outside the log: Kafka lost data, or the topic was replaced."""


class BatchGapError(ReadStatesError):
    """A batch does not begin where the partition stands."""


class UnpackError(ReadStatesError):
    """A compressed batch of the log cannot be unpacked."""


class BatchTooLargeError(UnpackError):
    """A compressed batch of the log unpacks to more than is allowed."""


class StoreError(ReadStatesError):
    """Cassandra did not answer in time or refused; the work stays queued and is tried again."""


class SendError(ReadStatesError):
    """The brokers did not take a record that a command sent; the text says how far it came."""
