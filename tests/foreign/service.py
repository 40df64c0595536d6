"""The service that the clients meet: topics of some number of partitions, and one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.ops.local.worker import WorkerProcess
from readstates.ops.proof.oracle import Oracle, Row
from readstates.schemas.fields import DecodeError
from readstates.schemas.partitioner import partition_of
from readstates.schemas.queries import Get, decode_query
from readstates.schemas.read_state import CHANNEL, MENTION_COUNT, TYPE, VERSION, mentions_of
from readstates.streams.client import BlockingClient
from tests.support.waiting import until

from .traffic import Record

TIMEOUT_S = 30.0
FIELDS = (
    *("last_message_id", "last_mention_id", "mention_count"),
    *("last_pin_timestamp", "flags", "last_viewed"),
)
IDS = ("last_message_id", "last_mention_id")  # strings in a reply; the other fields are numbers

Place = tuple[str, int]  # key, partition


class Misplaced(Exception):
    """Records are not where they belong."""


class Service:
    """A service with `partitions`, ready; `close` ends its worker."""

    def __init__(self, stack_env: Mapping[str, str], folder: Path, partitions: int) -> None:
        self.partitions = partitions
        self.prefix = f"foreign-{partitions}"
        self.bootstrap = stack_env["READ_STATES_KAFKA_BOOTSTRAP"]
        env = {
            **stack_env,
            "READ_STATES_TOPIC_PREFIX": self.prefix,
            "READ_STATES_KAFKA_GROUP": self.prefix,
            "READ_STATES_CASSANDRA_KEYSPACE": f"foreign_{partitions}",
            "READ_STATES_CACHE_DIR": str(folder / f"tables-{partitions}"),
            "READ_STATES_CACHE_STATES": "20000",
        }
        init = [sys.executable, "-m", "readstates.streams.cli", "init", "--partitions"]
        subprocess.run([*init, str(partitions)], env={**os.environ, **env}, check=True)
        self._worker = WorkerProcess(env, folder / f"worker-{partitions}.log").start()
        self._worker.wait_ready()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap})
        self._ends = dict.fromkeys(range(partitions), 0)  # how far `updates` was read
        self._oracle = Oracle()
        self._client = BlockingClient(
            self.bootstrap,
            f"{self.prefix}.replies.own",
            topic_prefix=self.prefix,
            create_reply_topic=True,
        )
        self._client.__enter__()

    @property
    def updates(self) -> str:
        return f"{self.prefix}.updates"

    @property
    def queries(self) -> str:
        return f"{self.prefix}.queries"

    def close(self) -> None:
        self._client.__exit__(None, None, None)
        self._worker.stop()
        del self._admin  # its thread would look for the brokers that are about to end

    def topic(self, name: str, partitions: int) -> str:
        """Creates a topic, and waits until the broker shows it; its name."""
        made = self._admin.create_topics([NewTopic(name, partitions, 1)])
        made[name].result(timeout=TIMEOUT_S)
        until(lambda: name in self._admin.list_topics(timeout=TIMEOUT_S).topics, f"topic {name}")
        return name

    def read(self, topic: str, starts: Mapping[int, int]) -> Iterator[Message]:
        """The records of a topic from these offsets to its present end."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": str(uuid.uuid4())})
        try:
            ends = {}
            for number, start in starts.items():
                place = TopicPartition(topic, number)
                _, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                if end > start:
                    ends[number] = end
            consumer.assign([TopicPartition(topic, n, starts[n]) for n in ends])
            while ends:
                message = consumer.poll(TIMEOUT_S)
                if message is None or message.error() is not None:
                    raise TimeoutError(f"{topic} cannot be read: {message and message.error()}")
                number, offset = message.partition(), message.offset()
                assert number is not None
                assert offset is not None
                if number in ends:
                    yield message
                    if offset >= ends[number] - 1:
                        del ends[number]
        finally:
            consumer.close()

    def places(self, topic: str) -> list[Place]:
        """Where the records of a topic are."""
        found = []
        for message in self.read(topic, dict.fromkeys(range(self.partitions), 0)):
            key, number = message.key(), message.partition()
            assert isinstance(key, bytes)
            assert number is not None
            found.append((key.decode(), number))
        return found

    def fold(self, count: int) -> dict[int, int]:
        """Folds what is new in `updates`, waits until it is applied; users and their versions.

        Raises Misplaced unless `count` records came, each in the partition of its user.
        """
        last: dict[int, int] = {}
        wrong = came = 0
        for message in self.read(self.updates, self._ends):
            key, offset, number = message.key(), message.offset(), message.partition()
            assert isinstance(key, bytes)
            assert offset is not None
            assert number is not None
            came += 1
            wrong += partition_of(key, self.partitions) != number
            self._ends[number] = offset + 1
            self._oracle.apply(key, message.value(), offset)
            last[int(key)] = offset
        if came != count or wrong:
            raise Misplaced(f"{came} of {count} updates came, {wrong} to wrong partitions")
        for user, offset in last.items():
            self._client.get(user, after_offset=offset, deadline_s=TIMEOUT_S)
        return {user: self._some_version(user) for user in last}

    def _some_version(self, user: int) -> int:
        """One between the user's read states, where there are some."""
        versions = sorted(row[VERSION] for row in self._oracle.shown(user))
        return versions[len(versions) // 2] if versions else 0

    def expected(self, query: Record) -> dict[str, Any]:
        """The reply, field by field: what the log folds to, at the version of our own client."""
        try:
            get = decode_query(query.value.encode())
        except DecodeError as exc:
            error = {"code": "invalid_query", "message": str(exc)}
            return {"user_id": query.key, "error": error}
        own = self._client.get(
            get.user_id,
            get.channel_ids,
            read_state_type=get.read_state_type,
            since_version=get.since_version,
            mentions=True,
            mentioned=get.mentioned,
        )
        shown = self._oracle.shown(get.user_id)
        rows = _chosen(shown, get, 0 if own.full else get.since_version or 0)
        if not (get.after or get.limit):
            found = [(*state[:-1], list(state.mentions or ())) for state in own.read_states]
            assert found == [(*row[:-1], mentions_of(row)) for row in rows], (query, own, rows)
        reply = {"user_id": query.key, "version": str(own.version), "full": own.full}
        page = rows[: get.limit]
        reply["read_states"] = [_state(row, get.mentions) for row in page]
        if get.totals:
            of_type = _chosen(shown, Get(get.user_id, None, get.read_state_type), 0)
            counts = [row[MENTION_COUNT] for row in of_type]
            sums = len(counts), sum(count > 0 for count in counts), sum(counts)
            reply["totals"] = dict(zip(("read_states", "mentioned", "mentions"), sums, strict=True))
        if len(page) < len(rows):
            last = page[-1]
            reply["next"] = {"read_state_type": last[TYPE], "channel_id": str(last[CHANNEL])}
        return reply


def _chosen(rows: list[Row], get: Get, above: int) -> list[Row]:
    """The rows that a query asks for with a larger version; all pages from its `after` on."""
    kind = get.read_state_type
    if get.channel_ids is not None:
        kind = kind or 0
    return [
        row
        for row in rows
        if (kind is None or row[TYPE] == kind)
        and (get.channel_ids is None or row[CHANNEL] in get.channel_ids)
        and row[VERSION] > above
        and (row[MENTION_COUNT] or not get.mentioned)
        and row[:2] > (get.after or (-1, 0))
    ]


def _state(row: Row, mentions: bool) -> dict[str, Any]:
    kind, channel, *fields, version, _ = row
    named = dict(zip(FIELDS, fields, strict=True))
    body = {
        "channel_id": str(channel),
        "read_state_type": kind,
        **{name: str(value) if name in IDS else value for name, value in named.items()},
        "version": str(version),
    }
    return {**body, "mentions": list(map(str, mentions_of(row)))} if mentions else body


def differences(wanted: Any, got: Any, where: str = "reply") -> list[str]:
    """Where two replies differ, field by field; types count, the order of fields does not."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return [
            difference
            for name in sorted({*wanted, *got})
            for difference in differences(
                wanted.get(name, "no field"), got.get(name, "no field"), f"{where}.{name}"
            )
        ]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        return [
            difference
            for number, pair in enumerate(zip(wanted, got, strict=True))
            for difference in differences(*pair, f"{where}[{number}]")
        ]
    if type(wanted) is type(got) and wanted == got:
        return []
    return [f"{where}: wanted {json.dumps(wanted)}, got {json.dumps(got)}"]
