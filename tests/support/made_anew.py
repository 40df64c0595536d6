"""Topics that are deleted and made anew while their clients keep the leaders of the old ones.

librdkafka takes a leader for outdated if its epoch is lower than one it has seen (its issue 4898).
So the brokers restart before the clients begin, which raises the epochs, and each partition of the
new topic, whose epoch is 0, is led by another broker than before. What is sent and read here has
clients of its own each time.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.ops.local import process, state
from readstates.ops.local.stack import Stack
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from .waiting import WAIT_S, until
from .wire import encode, new_user

BROKERS = 3
QUIET = {"log_level": 0, "allow.auto.create.topics": False}


def restart_brokers(stack: Stack) -> None:
    """Kill one after the other: each partition gets a larger leader epoch."""
    for number in range(1, BROKERS + 1):
        _kill(stack, f"kafka-{number}")
        stack.up(brokers=BROKERS, brief=True)


def _kill(stack: Stack, name: str) -> None:
    current = state.load(stack.data_dir)
    assert current is not None
    broker = current.processes[name]
    process.send(broker, signal.SIGKILL)
    until(lambda: not process.is_alive(broker), f"the end of {name}")


class Topics:
    """The topics of a service, and records of them."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self.settings, self.partitions = settings, partitions
        self._config = {"bootstrap.servers": settings.kafka_bootstrap, **QUIET}
        self.reply_topic = f"{settings.topic_prefix}.replies.anew"
        self._create(self.reply_topic, [[number % BROKERS + 1] for number in range(partitions)])

    def _admin(self) -> AdminClient:
        return AdminClient(self._config)

    def _create(self, name: str, assignment: list[list[int]]) -> None:
        config = topics.wanted(self.settings, 1).get(name, {})
        topic = NewTopic(name, len(assignment), replica_assignment=assignment, config=config)
        admin = self._admin()  # must live until it has the answer
        admin.create_topics([topic])[name].result(WAIT_S)
        until(lambda: self._leaders(name) == [one for (one,) in assignment], f"leaders of {name}")

    def _leaders(self, name: str) -> list[int]:
        """The leaders of a topic's partitions; empty if it is not there."""
        topic = self._admin().list_topics(name, timeout=WAIT_S).topics[name]
        if topic.error is not None:
            return []
        return [topic.partitions[number].leader for number in sorted(topic.partitions)]

    def make_anew(self, name: str) -> None:
        """Delete a topic, and create it with its leaders on other brokers."""
        leaders = self._leaders(name)
        assert leaders
        assert min(leaders) > 0
        admin = self._admin()
        admin.delete_topics([name])[name].result(WAIT_S)
        until(lambda: not self._leaders(name), f"{name} is gone")
        self._create(name, [[leader % BROKERS + 1] for leader in leaders])

    def producer(self, timeout_s: float = WAIT_S) -> Producer:
        """A producer with the partitioner of the service's clients."""
        more = {"partitioner": "murmur2_random", "message.timeout.ms": int(timeout_s * 1000)}
        return Producer({**self._config, **more})

    def send(self, topic: str, user: int, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """One record, acknowledged by a broker."""
        errors: list[KafkaError | None] = []
        producer = self.producer()
        producer.produce(
            topic,
            value,
            str(user).encode(),
            headers=headers,
            on_delivery=lambda error, _message: errors.append(error),
        )
        producer.flush(WAIT_S)
        assert errors == [None]

    def records(self, topic: str) -> Iterator[Message]:
        """What the topic has now."""
        config = {**self._config, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
        consumer = Consumer(config)
        try:
            for number in range(self.partitions if topic != self.settings.probes_topic else 1):
                place = TopicPartition(topic, number)
                start, end = consumer.get_watermark_offsets(place, timeout=WAIT_S)
                place.offset = start
                consumer.assign([place])
                while start < end:
                    message = consumer.poll(WAIT_S)
                    assert message is not None
                    assert message.error() is None
                    start = (message.offset() or 0) + 1
                    yield message
        finally:
            consumer.close()

    # -- what a client does ---------------------------------------------------------------------

    def send_unreadable(self) -> bytes:
        """An update that becomes a dead letter; returns its value."""
        value = b"no JSON: " + uuid.uuid4().hex.encode()
        self.send(self.settings.updates_topic, new_user(), value, [])
        return value

    def dead_letters(self) -> set[bytes | None]:
        return {message.value() for message in self.records(self.settings.dead_letters_topic)}

    def ask(self) -> bytes:
        """Ask for all read states of a user; returns the correlation ID."""
        user, correlation_id = new_user(), uuid.uuid4().bytes
        headers = [
            ("kafka_replyTopic", self.reply_topic.encode()),
            ("kafka_correlationId", correlation_id),
        ]
        self.send(self.settings.queries_topic, user, encode(user, {"type": "get"}), headers)
        return correlation_id

    def answered(self) -> set[bytes | None]:
        """The correlation IDs of all replies."""
        found = set[bytes | None]()
        for message in self.records(self.reply_topic):
            headers = dict(message.headers() or ())
            assert "read-states-error" not in headers
            found.add(headers["kafka_correlationId"])
        return found

    def asking(self) -> Callable[[], bool]:
        """Asks a query with each call; true once one of them has a reply."""
        asked = set[bytes | None]()

        def look() -> bool:
            asked.add(self.ask())
            return bool(asked & self.answered())

        return look
