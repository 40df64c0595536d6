"""Handles replies that a broker refuses because they are too large.

A broker takes or refuses a batch as a whole. If it refuses one, all replies of the batch fail, also
those of other users that are small. A batch of several replies has at most `batch.size` bytes
(1,000,000 unless KAFKA_CONFIG says otherwise), and a larger reply has a batch of its own. So
several replies fail together only if the reply topic's `max.message.bytes` is below that.

How it works.
1. A refused reply is sent again by a second producer, whose batches contain one reply each.
2. What this producer cannot deliver either is itself too large. Its client gets the error
   `reply_too_large` with a `limit` that fits.
3. The `limit` follows from the topic's `max.message.bytes`, which is requested at most once in
   BOUND_KNOWN_S for each topic. The worker may lack the right to read it. Then the reply is to be
   half as large, and a client that follows the advice each time gets to a page that fits.

Only refused replies come here. The calls are made in the thread that polls the producers; the
bound of a topic arrives in the admin client's thread. Nothing is sent after a query's deadline
(Q2), nor while the worker stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from readstates.schemas.headers import HEADER_ERROR, ReplyAddress
from readstates.schemas.reply_sizes import limit_that_fits, too_large

from ..config import Settings
from .delivery import Delivery
from .lasting_producer import LastingProducer

TOO_LARGE = {
    KafkaError.MSG_SIZE_TOO_LARGE,  # over max.message.bytes, or the producer's message.max.bytes
    KafkaError.RECORD_LIST_TOO_LARGE,  # over the topic's segment.bytes
}
BOUND = "max.message.bytes"
BOUND_KNOWN_S = 60.0  # then it is requested again, because an operator may have changed it
BOUND_TIMEOUT_S = 3.0
FRAME_BYTES = 128  # of a record and its batch, around the key, the value and the headers


class Sent(NamedTuple):
    """A reply that was handed to a producer: the parts that a failure report does not have."""

    address: ReplyAddress
    key: bytes | None  # of the query
    headers: list[tuple[str, bytes]]
    deadline_ms: int

    @property
    def is_error(self) -> bool:
        return any(name == HEADER_ERROR for name, _ in self.headers)

    @property
    def is_late(self) -> bool:
        return time.time() * 1000 >= self.deadline_ms

    @property
    def bytes_around(self) -> int:
        """The size of its batch without the value, at most."""
        headers = sum(len(name) + len(content) for name, content in self.headers)
        return FRAME_BYTES + len(self.key or b"") + headers


class RefusedReplies:
    """See the module. `send_error` sends REPLY_TOO_LARGE: for a reply, with a text and a limit."""

    def __init__(
        self,
        settings: Settings,
        delivery: Delivery,
        send_error: Callable[[Sent, str, int | None], None],
    ) -> None:
        self._settings = settings
        self._delivery = delivery
        self._send_error = send_error
        self._producer: LastingProducer | None = None
        self._admin: AdminClient | None = None
        self._bounds: dict[str, tuple[float, Future[Any]]] = {}  # topic → when requested, settings

    def send_again(self, sent: Sent, error: KafkaError, message: Message) -> None:
        """Step 1, for a reply of a batch that was refused."""
        topic = str(message.topic())
        if sent.is_late or self._delivery.closing:
            self._delivery.reply_failed(topic, error)
            return
        if self._producer is None:
            self._producer = self._delivery.producer(
                "refused-replies", {"delivery.report.only.error": True, "batch.num.messages": 1}
            )
        try:
            self._producer.now.produce(
                topic,
                message.value(),
                message.key(),
                message.partition(),
                on_delivery=partial(self._reported, sent),
                headers=list(sent.headers),
            )
        except (BufferError, KafkaException) as exc:
            self._delivery.reply_failed(topic, exc)

    def _reported(self, sent: Sent, error: KafkaError | None, message: Message) -> None:
        """Step 2."""
        if error is None:
            return
        topic, value = str(message.topic()), bytes(message.value() or b"")
        if self._producer is not None:
            self._producer.note_failure(error, topic, message.partition())
        if error.code() not in TOO_LARGE or sent.is_error or sent.is_late:
            self._delivery.reply_failed(topic, error)
        else:
            self._bound_of(topic).add_done_callback(partial(self._advise, sent, topic, value))

    def _bound_of(self, topic: str) -> Future[Any]:
        """The settings of a topic, requested or known."""
        now = time.monotonic()
        requested, future = self._bounds.get(topic, (0.0, None))
        if future is None or now - requested > BOUND_KNOWN_S:
            if self._admin is None:
                config = {"client.id": "read-states-worker", "log_level": 0}
                self._admin = AdminClient(self._settings.librdkafka(**config))
            resource = ConfigResource(ResourceType.TOPIC, topic)
            asked = self._admin.describe_configs([resource], request_timeout=BOUND_TIMEOUT_S)
            (future,) = asked.values()
            self._bounds[topic] = now, future
        return future

    def _advise(self, sent: Sent, topic: str, value: bytes, settings: Future[Any]) -> None:
        """Step 3: what the topic's settings say, or half of the size."""
        what, bytes_max = f"topic {topic}", len(value) // 2
        if settings.exception() is None:
            bound = int(settings.result()[BOUND].value)
            room = bound - sent.bytes_around
            if room < len(value):  # otherwise it has changed meanwhile
                what, bytes_max = f"{BOUND} ({bound}) of topic {topic}", room
        self.refuse(sent, topic, value, what, bytes_max)

    def refuse(self, sent: Sent, topic: str, value: bytes, what: str, bytes_max: int) -> None:
        """Send the error for a reply that may have `bytes_max` bytes only, because of `what`."""
        limit = limit_that_fits(value, bytes_max)
        text = too_large(len(value), what, limit)
        self._delivery.reply_failed(topic, text)
        if not sent.is_late:
            self._send_error(sent, text, limit)
