"""The topic of the change feed: the settings with which it is made, and those that it needs."""

from __future__ import annotations

from ..deviations import (
    CLEANUP_POLICY,
    MIN_ISR,
    RECORD_SIZE,
    RETENTION,
    TIMESTAMP_TYPE,
    UNCLEAN_ELECTION,
)
from .topic_rule import Rule

KEPT_MS = 3_600_000  # a consumer that is away for longer asks for all read states again
KEPT_MIN_MS = 60_000  # with less, a consumer that only restarts would miss records
BATCH_BYTES = 1 << 20  # librdkafka makes batches of up to 1,000,000 bytes


def wanted(replication: int) -> dict[str, str]:
    """The settings with which `readstates init` makes the topic."""
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
        "min.insync.replicas": str(max(1, replication - 1)),
        "retention.ms": str(KEPT_MS),
        "max.message.bytes": str(BATCH_BYTES),
    }


def needed(replicas: int) -> dict[str, Rule]:
    """The settings without which a change would be missing; `replicas`: of each partition."""
    return {
        "cleanup.policy": Rule(
            CLEANUP_POLICY, "delete", "a record says only what changed since the one before it"
        ),
        "message.timestamp.type": Rule(
            TIMESTAMP_TYPE,
            "LogAppendTime",
            "a broker refuses a record from an hour ahead, and deletes an old one at once",
        ),
        "unclean.leader.election.enable": Rule(
            UNCLEAN_ELECTION, "false", "an unclean election loses acknowledged records"
        ),
        "min.insync.replicas": Rule(
            MIN_ISR,
            str(max(1, min(replicas - 1, 2))),
            "if it is lower, a failure may lose acknowledged records; if it is higher than the "
            f"{replicas} replicas, no producer can write",
            at_most=replicas,
        ),
        "retention.ms": Rule(
            RETENTION, str(KEPT_MIN_MS), "consumers that restart would miss records", at_least=True
        ),
        "max.message.bytes": Rule(
            RECORD_SIZE,
            str(BATCH_BYTES),
            "a record that is too large would block its partition's commits for ever",
            at_least=True,
        ),
    }
