"""What may change under a running worker, and what the worker then does: decided here, once.

A start refuses what it finds of these in Kafka and Cassandra. A running worker looks for them
every 10 s (`worker/watch.py`), and `readstates status` looks when it is called. Each has a section
in ops/runbooks/ReadStatesDeviation.md; a test holds that page against this table.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Decision(Enum):
    """What a running worker does."""

    SERVE_ON = "keep serving"
    REFUSE_QUERIES = "refuse queries"  # those that need the database get store_unavailable
    STOP = "stop"


class Deviation(NamedTuple):
    """A decision, and its reason in half a sentence."""

    decision: Decision
    why: str


class Found(NamedTuple):
    """A deviation that was found: its name, and what happened, where, and what to do."""

    name: str
    text: str


UPDATES_DELETED = "updates_deleted"
UPDATES_REPLACED = "updates_replaced"
UPDATES_PARTITIONS = "updates_partitions"
UPDATES_MISSING = "updates_missing"
QUERIES_DELETED = "queries_deleted"
QUERIES_REPLACED = "queries_replaced"
QUERIES_PARTITIONS = "queries_partitions"
DEAD_LETTERS_DELETED = "dead_letters_deleted"
PROBES_MISSING = "probes_missing"
CHANGES_DELETED = "changes_deleted"
CHANGES_PARTITIONS = "changes_partitions"
EPOCHS_MISSING = "epochs_missing"
CLEANUP_POLICY = "cleanup_policy"
TIMESTAMP_TYPE = "timestamp_type"
RETENTION = "retention"
RETENTION_BYTES = "retention_bytes"
UNCLEAN_ELECTION = "unclean_election"
MIN_ISR = "min_isr"
RECORD_SIZE = "record_size"
OPEN_TRANSACTION = "open_transaction"
FOREIGN_MEMBER = "foreign_member"
ANSWERED_TWICE = "answered_twice"
DATABASE_MISSING = "database_missing"
DATABASE_REPLACED = "database_replaced"
REPLICATION = "replication"
NOT_CHECKED = "not_checked"

_SERVE_ON, _REFUSE, _STOP = Decision.SERVE_ON, Decision.REFUSE_QUERIES, Decision.STOP

DEVIATIONS = {
    UPDATES_DELETED: Deviation(_STOP, "the log is gone, and a new topic would be a different log"),
    UPDATES_REPLACED: Deviation(_STOP, "offsets start again at 0, so new changes look old"),
    UPDATES_PARTITIONS: Deviation(_STOP, "users belong to other partitions now"),
    UPDATES_MISSING: Deviation(_STOP, "updates are lost, and a person must decide what to do"),
    QUERIES_DELETED: Deviation(_SERVE_ON, "updates still work, and the topic can be created again"),
    QUERIES_REPLACED: Deviation(_SERVE_ON, "the new topic is read from its beginning"),
    QUERIES_PARTITIONS: Deviation(_SERVE_ON, "most users are still answered"),
    DEAD_LETTERS_DELETED: Deviation(_SERVE_ON, "dead letters wait, and everything else works"),
    PROBES_MISSING: Deviation(_SERVE_ON, "users are served, but no probe checks that they are"),
    CHANGES_DELETED: Deviation(_SERVE_ON, "changes wait for the topic, and everything else works"),
    CHANGES_PARTITIONS: Deviation(_SERVE_ON, "some partitions' changes wait, and the rest works"),
    EPOCHS_MISSING: Deviation(_SERVE_ON, "Cassandra still has the history of epochs"),
    CLEANUP_POLICY: Deviation(
        _SERVE_ON, "compaction may remove unread updates, so stopping would lose more"
    ),
    TIMESTAMP_TYPE: Deviation(_SERVE_ON, "timestamps are right if the senders' clocks are right"),
    RETENTION: Deviation(_SERVE_ON, "Kafka may delete unread updates, so stopping would lose more"),
    RETENTION_BYTES: Deviation(_SERVE_ON, "the brokers' disks are not full yet"),
    UNCLEAN_ELECTION: Deviation(_SERVE_ON, "nothing is lost until a leader fails"),
    MIN_ISR: Deviation(_SERVE_ON, "nothing is lost until a leader fails"),
    RECORD_SIZE: Deviation(_SERVE_ON, "only large dead letters or changes would wait"),
    OPEN_TRANSACTION: Deviation(_SERVE_ON, "replies are right up to the transaction's start"),
    FOREIGN_MEMBER: Deviation(_SERVE_ON, "only the program's partitions are not served"),
    ANSWERED_TWICE: Deviation(_SERVE_ON, "both replies are right; the second is only superfluous"),
    DATABASE_MISSING: Deviation(_REFUSE, "users in the table are right; others cannot be loaded"),
    DATABASE_REPLACED: Deviation(_STOP, "users would seem to have no read states"),
    REPLICATION: Deviation(_REFUSE, "new replicas have no rows until they are repaired"),
    NOT_CHECKED: Deviation(_SERVE_ON, "nothing is known to be wrong"),
}
