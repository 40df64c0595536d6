"""How `readstates status` shows what it found: as text, or as JSON with offsets as strings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..config import Settings
from .status_asking import KafkaStatus, LogStatus

NOTHING_WRONG = (
    "nothing is known to be wrong with the group, the topics and the epoch; for latency, failed "
    "loads and writes, and dead letters, see the metrics"
)


@dataclass
class Status:
    """The whole status. A part that did not answer is None, and its problem says why."""

    kafka: KafkaStatus | None
    cassandra: LogStatus | None
    problems: list[str]


def json_of(found: Status) -> str:
    """The whole status as one object."""
    body: dict[str, Any] = {"ok": not found.problems, **asdict(found)}
    if found.kafka is not None:
        body["kafka"].pop("problems")
        for shown, one in zip(body["kafka"]["partitions"], found.kafka.partitions, strict=True):
            shown.update(updates_lag=one.updates_lag, queries_lag=one.queries_lag)
            for name, value in shown.items():
                if value is not None and name.endswith(("_start", "_end", "committed")):
                    shown[name] = str(value)
    if found.cassandra is not None:
        body["cassandra"]["first_offsets"] = list(map(str, found.cassandra.first_offsets))
    return json.dumps(body, indent=2)


def text_of(settings: Settings, found: Status) -> Iterator[str]:
    """The lines for a terminal."""
    if found.kafka is not None:
        yield from _kafka_text(settings, found.kafka)
    if found.cassandra is not None and found.cassandra.epoch is not None:
        log = found.cassandra
        yield (
            f"database {settings.cassandra_keyspace}: ID {log.database_id}, epoch {log.epoch} "
            f"since {log.began_at} UTC, topic ID {log.topic_id}, {log.partitions} partitions"
        )
    yield from (f"PROBLEM {_printable(problem)}" for problem in found.problems)
    if not found.problems:
        yield NOTHING_WRONG


def _kafka_text(settings: Settings, kafka: KafkaStatus) -> Iterator[str]:
    yield f"group {settings.kafka_group}: {kafka.group_state}, {len(kafka.members)} workers"
    for one in kafka.members:
        name = one.instance_id or one.member_id
        yield _printable(
            f"  {name} at {one.host}, {one.client_id}, partitions "
            f"{', '.join(map(str, one.partitions)) or 'none'}"
        )
    if kafka.members:
        yield f"  A worker that died {_just_now(kafka)} still counts, as one that runs."
    yield (
        f"topic {settings.updates_topic}: topic ID {kafka.topic_id}, "
        f"{len(kafka.partitions)} partitions"
    )
    row = "{:>9} {:>6} {:>14} {:>14} {:>13} {:>11}  {:<22} {}".format
    yield row(
        "partition", "leader", "log end", "committed", "not committed", "queries lag",
        "commit says", "owner",
    )  # fmt: skip
    for place in kafka.partitions:
        cells = (
            place.leader,
            place.log_end,
            place.committed,
            place.updates_lag,
            place.queries_lag,
            place.metadata or None,
            place.owner,
        )
        yield _printable(row(place.number, *("-" if cell is None else cell for cell in cells)))


def _just_now(kafka: KafkaStatus) -> str:
    """Since when nobody can know yet that a worker is dead."""
    if kafka.death_unseen_s is None:
        return "within the brokers' group.consumer.session.timeout.ms"
    return f"within the last {kafka.death_unseen_s:g} s (SESSION_TIMEOUT_S)"


def _printable(text: str) -> str:
    """Text without control characters: a client names itself, and a terminal obeys them."""
    return "".join(char if char.isprintable() else "?" for char in text)
