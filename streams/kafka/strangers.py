"""Finds members of the workers' group that are no workers.

The group gives partitions to every member that may join it: a console consumer with the wrong
`--group`, or another service that was given the same name. Nobody serves the users of these
partitions meanwhile. Such a member also commits offsets, and passes over updates that no worker has
folded.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from ..config import Settings
from ..deviations import FOREIGN_MEMBER, Found
from .admin import describe_group
from .group_member import CLIENT_ID

NAMED_MAX = 3  # in a text
NO_GROUP = KafkaError.GROUP_ID_NOT_FOUND


def strangers(client: AdminClient, settings: Settings, timeout_s: float) -> list[Found]:
    """The deviation, if there are any. Raises KafkaException or TimeoutError if Kafka is silent."""
    group = settings.kafka_group
    try:
        members = describe_group(client, group, timeout_s).members
    except KafkaException as exc:
        if exc.args[0].code() == NO_GROUP:
            return []
        raise
    found = [member for member in members if member.client_id != CLIENT_ID]
    if not found:
        return []
    named = ", ".join(
        f"{member.client_id!r:.80} at {member.host.lstrip('/')}" for member in found[:NAMED_MAX]
    )
    text = (
        f"group {group} has {len(found)} members that are no workers: {named}. Stop them, and give "
        "them a group of their own. Nobody serves the partitions that they take, and they commit "
        "updates that no worker has folded: see ops/runbooks/ReadStatesDeviation.md"
    )
    return [Found(FOREIGN_MEMBER, text)]
