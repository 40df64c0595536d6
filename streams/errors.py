"""Every error of the service, and the response to each.

ReadStatesError
├── ConfigError          refuse to start: a setting is wrong, the message names it and its range
├── TopicError           refuse to start: a topic is missing or set up wrongly
│   ├── KafkaAwayError   ask again with a new client, for a while: no broker answered
│   └── EpochsTopicError   go on and report it: the history of epochs is still in Cassandra
├── EpochError           refuse to start: this is not the topic the database was written from
├── EarlierEpochError    refuse to start: a commit is below the epoch's first offset
├── GroupError           end the worker: the group refuses it
│   └── SharedNameError  end the worker for good: another worker has its name
├── RestoreError         end the command: workers are running, or records would be left out
├── RolloutError         refuse to start, or end the command: a candidate is not what it should be
├── RewindError          end the command: workers are running, or the log or the epoch begins later
├── DataLossError        refuse to start: Kafka has lost records that were not yet in Cassandra
├── DeviationError       stop the worker: what it checked at its start has changed
├── EndedError           stop the worker: a thread or a loop of it has ended, which is a bug
├── BatchGapError        stop the worker: records were lost between Kafka and the partition
├── UnpackError          make a dead letter of the batch: it is not what its codec writes
│   └── BatchTooLargeError   the same: it unpacks to more than is allowed
├── StoreError           pause and retry: Cassandra did not answer; the work stays queued
│   └── SchemaMissingError   the same, and refuse to start: the keyspace or a table is not there
├── PrometheusError      end the command: nobody knows whether a rollout's gates hold
└── SendError            end the command: the brokers did not take a record

`readstates.schemas.wire.DecodeError` (the record becomes a dead letter) and
`readstates.cache.layout.TableDamaged` (drop the file and replay) belong to their own packages.
"""

from __future__ import annotations


class ReadStatesError(Exception):
    """Base of all; its text says what happened, where, and what to do.

    `exit_status`: of a worker that ends over it. 2 says that starting it again, with the same flags
    and environment, is of no use; after 1 it may be.
    """

    exit_status = 1


class ConfigError(ReadStatesError):
    """A setting is outside its range, or two settings contradict each other."""


class TopicError(ReadStatesError):
    """A topic is missing, or its settings would lose or reorder data."""


class KafkaAwayError(TopicError):
    """The brokers, or the controller behind them, did not answer a question about a topic."""


class EpochsTopicError(TopicError):
    """The topic with the history of epochs does not exist, or cannot be read or written."""


class EpochError(ReadStatesError):
    """The updates topic is not the one that the database was written from."""


class EarlierEpochError(ReadStatesError):
    """The group would fold records again that were written to the database in an earlier epoch."""


class GroupError(ReadStatesError):
    """The consumer group refuses this worker for good."""


class SharedNameError(GroupError):
    """Two workers have the same INSTANCE_ID; each would put the other out, again and again."""

    exit_status = 2


class RestoreError(ReadStatesError):
    """The database cannot be restored as it was asked, or the restore has to be repeated."""


class RewindError(ReadStatesError):
    """The group's commits cannot be moved back while workers run, or not as far as was asked."""


class RolloutError(ReadStatesError):
    """A candidate is not known, or not the one that a commit or a worker says; or it was ended."""


class DataLossError(ReadStatesError):
    """The committed offset is outside the log: Kafka lost data, or the topic was replaced."""


class DeviationError(ReadStatesError):
    """What a worker checked at its start has changed so that it must not go on."""


class EndedError(ReadStatesError):
    """A thread, a loop or a call of the worker has ended that must not end: this is a bug."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}. Without it nobody knows what else the worker leaves undone, so it stops; "
            "nothing is lost. Start it again, and report this as a bug, with the log"
        )


class BatchGapError(ReadStatesError):
    """A batch does not begin at its partition's position."""


class UnpackError(ReadStatesError):
    """A compressed batch of the log cannot be unpacked."""


class BatchTooLargeError(UnpackError):
    """A compressed batch of the log unpacks to more than is allowed."""


class StoreError(ReadStatesError):
    """Cassandra did not answer in time or refused; the work stays queued and is tried again."""


class SchemaMissingError(StoreError):
    """The keyspace, a table or a column is not there."""


class PrometheusError(ReadStatesError):
    """Prometheus gave no answer, or none that is a single figure."""


class SendError(ReadStatesError):
    """The brokers refused a record that a command sent; the text says how many they took."""
