"""The service as its producers and clients see it: topics, JSON, headers. Its code is not imported.

Records go out through a plain confluent-kafka producer, replies and dead letters come in through
plain consumers, JSON is the standard library's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from .rows import COLUMNS, Rows
from .waiting import WAIT_S, until

Headers = list[tuple[str, bytes]]

PARTITIONS = 4


class Place(NamedTuple):
    """Where a record stands in the log."""

    partition: int
    offset: int


class Reply(NamedTuple):
    """One record of a reply topic."""

    key: bytes | None
    value: Any
    headers: dict[str, bytes]
    topic: str
    partition: int

    @property
    def states(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.value["read_states"]
        return found

    @property
    def error(self) -> str | None:
        """The error's code, after checking that header and body agree."""
        code = self.headers.get("read-states-error")
        if code is None:
            assert "error" not in self.value
            return None
        assert self.value["error"]["code"] == code.decode()
        assert isinstance(self.value["error"]["message"], str)
        assert self.value["error"]["message"]
        return code.decode()


class DeadLetter(NamedTuple):
    """One record of the dead-letters topic."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def reason(self) -> str:
        return self.headers["reason"].decode()


def murmur2(data: bytes) -> int:
    """The Java client's murmur2, unsigned."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def partition_of(user: int, partitions: int = PARTITIONS) -> int:
    return (murmur2(str(user).encode()) & 0x7FFFFFFF) % partitions


_users = iter(range(2**60 + 1, 2**62, 7_919_001))


def new_user(partition: int | None = None) -> int:
    """A user that no other test has, over 2^53; of that partition if one is given."""
    return next(u for u in _users if partition is None or partition_of(u) == partition)


def error_free(message: Message | None) -> Message | None:
    if message is None:
        return None
    assert message.error() is None, message.error()
    return message


class TopicReader:
    """Reads a topic from its beginning, all partitions, without a group's help."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"reader-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": False,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])

    def poll(self, timeout_s: float) -> Message | None:
        return error_free(self._consumer.poll(timeout_s))

    def close(self) -> None:
        self._consumer.close()


class Wire:
    """A producer of updates and queries, and a reader of what comes back."""

    def __init__(self, bootstrap: str, prefix: str, rows: Rows) -> None:
        self.bootstrap, self.prefix = bootstrap, prefix
        self.updates, self.queries = f"{prefix}.updates", f"{prefix}.queries"
        self.dead_letters_topic = f"{prefix}.dead-letters"
        self.reply_topic = f"{prefix}.replies.test"
        self.rows = rows
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.max.bytes": 2_000_000,
                "allow.auto.create.topics": False,
            }
        )
        self.create_topic(self.reply_topic, 3)
        self._replies = TopicReader(bootstrap, self.reply_topic, 3)
        self._dead = TopicReader(bootstrap, self.dead_letters_topic, PARTITIONS)
        self._got: list[Reply] = []
        self._dead_got: list[DeadLetter] = []

    def close(self) -> None:
        self._producer.flush(10)
        self._replies.close()
        self._dead.close()
        del self._producer, self.admin  # their threads end with them, before the brokers do

    # -- Kafka --------------------------------------------------------------------------------

    def create_topic(
        self, name: str, partitions: int = 1, config: dict[str, str] | None = None
    ) -> None:
        made = self.admin.create_topics([NewTopic(name, partitions, 1, config=config or {})])
        made[name].result(timeout=WAIT_S)
        until(lambda: name in self.topics(), f"topic {name}")

    def topics(self) -> set[str]:
        return set(self.admin.list_topics(timeout=WAIT_S).topics)

    def ends(self, topic: str, partitions: int = PARTITIONS) -> list[int]:
        """End offsets of a topic's partitions."""
        self.admin.list_topics(topic, timeout=WAIT_S)  # or it would not know of new partitions
        asked = {TopicPartition(topic, n): OffsetSpec.latest() for n in range(partitions)}
        found = self.admin.list_offsets(asked, request_timeout=WAIT_S)
        return [found[place].result(WAIT_S).offset for place in asked]

    def committed(self, group: str, partitions: int = PARTITIONS) -> list[int]:
        """A group's offsets of the updates topic; below 0: none."""
        places = [TopicPartition(self.updates, n) for n in range(partitions)]
        request = [ConsumerGroupTopicPartitions(group, places)]
        (found,) = self.admin.list_consumer_group_offsets(request).values()
        known = {each.partition: each.offset for each in found.result(WAIT_S).topic_partitions}
        return [known[n] for n in range(partitions)]

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        partition: int | None = None,
    ) -> Place:
        """One record, acknowledged by the broker."""
        placed: list[Place] = []

        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            number, offset = message.partition(), message.offset()
            assert number is not None
            assert offset is not None
            placed.append(Place(number, offset))

        more = {} if partition is None else {"partition": partition}
        self._producer.produce(
            topic, value, key, headers=headers or [], on_delivery=delivered, **more
        )
        assert self._producer.flush(WAIT_S) == 0
        return placed[0]

    # -- updates and dead letters -------------------------------------------------------------

    def produce(
        self,
        user: int,
        event: Mapping[str, Any] | bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
    ) -> Place:
        """One update. An event gets its `user_id`; bytes and None go as they are."""
        value = event if event is None or isinstance(event, bytes) else encode(user, event)
        return self.send(self.updates, key or str(user).encode(), value, partition=partition)

    def produce_update(self, user: int, event: Mapping[str, Any] | bytes | None) -> int:
        """The same, to the user's own partition; its offset."""
        place = self.produce(user, event)
        assert place.partition == partition_of(user)
        return place.offset

    def dead_letters(self) -> list[DeadLetter]:
        """All that have arrived so far."""
        while (message := self._dead.poll(0.05)) is not None:
            self._dead_got.append(
                DeadLetter(message.key(), message.value(), dict(message.headers() or []))
            )
        return self._dead_got

    def dead_letter(self, place: Place) -> DeadLetter:
        """That of one record of the updates topic, waited for."""
        wanted = {
            "topic": self.updates.encode(),
            "partition": str(place.partition).encode(),
            "offset": str(place.offset).encode(),
        }

        def look() -> DeadLetter | None:
            found = [d for d in self.dead_letters() if wanted.items() <= d.headers.items()]
            return found[0] if found else None

        found = until(look, f"a dead letter of {place}")
        assert set(found.headers) == {"reason", *wanted}
        return found

    def mention_all(self, users: list[int], message: int) -> None:
        """One mention of each user, by a producer that knows how many partitions there are."""
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "acks": "all"}
        )
        for user in users:
            event = {"type": "mention", "channel_id": "7", "message_id": str(message)}
            producer.produce(self.updates, encode(user, event), str(user))
        assert producer.flush(WAIT_S) == 0

    # -- queries ------------------------------------------------------------------------------

    def ask(
        self,
        user: int,
        body: Mapping[str, Any] | bytes | None = None,
        headers: Headers | None = None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        deadline_s: float | None = None,
        correlation_id: bytes | None = None,
    ) -> bytes:
        """Sends a query; returns the correlation ID to `wait` for.

        `headers` replace those of the plain dialect.
        """
        correlation_id = correlation_id or uuid.uuid4().bytes
        if headers is None:
            headers = [
                ("kafka_replyTopic", self.reply_topic.encode()),
                ("kafka_correlationId", correlation_id),
            ]
        if deadline_s is not None:
            headers = [*headers, deadline(deadline_s)]
        value = body if isinstance(body, bytes) else encode(user, {"type": "get", **(body or {})})
        self.send(self.queries, key or str(user).encode(), value, headers, partition)
        return correlation_id

    def arrived(self) -> list[Reply]:
        """All replies so far; those just arrived are read first."""
        while (message := self._replies.poll(0)) is not None:
            self._got.append(reply_of(message))
        return self._got

    def wait(self, correlation_id: bytes, timeout_s: float = WAIT_S) -> Reply | None:
        """The first reply of that correlation ID; None where none comes."""
        end = time.monotonic() + timeout_s
        while True:
            for reply in self.arrived():
                if reply.headers.get("kafka_correlationId") == correlation_id:
                    return reply
            if time.monotonic() > end:
                return None
            time.sleep(0.002)

    def query(
        self,
        user: int,
        body: Mapping[str, Any] | bytes | None = None,
        headers: Headers | None = None,
        **more: Any,
    ) -> Reply | None:
        """A query of the plain dialect and its reply; None where none comes in time."""
        timeout_s = more.pop("timeout_s", WAIT_S)
        return self.wait(self.ask(user, body, headers, **more), timeout_s)

    def get(self, user: int, **body: Any) -> Reply:
        """A good query's reply, checked for its form."""
        reply = self.query(user, body, deadline_s=20)
        assert reply is not None
        assert reply.error is None, reply.value
        check_form(reply, user)
        return reply

    def refused(self, user: int, body: Mapping[str, Any] | bytes | None, **more: Any) -> Reply:
        """A query's error reply, checked for its form."""
        reply = self.query(user, body, **more)
        assert reply is not None
        assert reply.error is not None
        assert set(reply.value) == {"user_id", "error"}
        assert set(reply.value["error"]) - {"limit"} == {"code", "message"}
        return reply


def reply_of(message: Message) -> Reply:
    number, topic, value = message.partition(), message.topic(), message.value()
    assert number is not None
    assert topic is not None
    assert value is not None
    found = dict(message.headers() or [])
    return Reply(message.key(), json.loads(value), found, topic, number)


def check_form(reply: Reply, user: int) -> None:
    """Everything that is said of a reply's form."""
    more = [name for name in ("totals", "next") if name in reply.value]
    assert list(reply.value) == ["user_id", "version", "full", "read_states", *more]
    assert reply.value["user_id"] == str(user)
    assert reply.value["version"].isdecimal()
    assert type(reply.value["full"]) is bool
    places = []
    for state in reply.states:
        assert set(state) - {"mentions"} == set(COLUMNS)
        if "mentions" in state:
            _check_mentions(state)
        for name in ("channel_id", "last_message_id", "last_mention_id", "version"):
            assert isinstance(state[name], str)
            assert state[name].isdecimal()
        for name in set(COLUMNS) - {"channel_id", "last_message_id", "last_mention_id", "version"}:
            assert type(state[name]) is int
        assert int(state["version"]) <= int(reply.value["version"])
        places.append((state["read_state_type"], int(state["channel_id"])))
    assert places == sorted(set(places))


def _check_mentions(state: dict[str, Any]) -> None:
    """The list of mentions against the count and the last one."""
    assert all(isinstance(each, str) for each in state["mentions"])
    mentions = list(map(int, state["mentions"]))
    assert mentions == sorted(set(mentions))
    assert len(mentions) <= state["mention_count"]
    assert int(state["last_mention_id"]) == max(mentions, default=0)


def encode(user: int, body: Mapping[str, Any]) -> bytes:
    return json.dumps({"user_id": str(user), **body}).encode()


def deadline(seconds: float) -> tuple[str, bytes]:
    return "read-states-deadline", str(int((time.time() + seconds) * 1000)).encode()
