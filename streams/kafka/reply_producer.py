"""Sends replies and error replies, and decides to which topics they may go.

A reply goes only to a topic that fully matches REPLY_TOPICS, exists, and is none of the service's
own: a client that can write queries must not be able to make the service write elsewhere. The
exception is the probes' topic, which gets the replies to probes and no others. This
module never creates a topic. It knows topics from the cluster's metadata, which it requests as a
whole at most once per second. A reply that is too large for its topic becomes an error
(`refused_replies.py`). Other replies are not retried beyond the producer's own retries; a client
that misses a reply asks again. While there is a candidate (`rollout/view.py`), some replies are not
sent to the client (`withheld_replies.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message

from readstates.schemas.headers import (
    DIALECT_FAUST,
    HEADER_CORRELATION_ID,
    HEADER_ERROR,
    HEADER_TRACEPARENT,
    ReplyAddress,
)
from readstates.schemas.replies import REPLY_TOO_LARGE, encode_error, wrap_faust
from readstates.schemas.rollout import Candidate, shadow_topic

from ..config import Settings
from .delivery import MESSAGE_BYTES_MAX, Delivery
from .refused_replies import TOO_LARGE, RefusedReplies, Sent
from .topics import topics_of
from .withheld_replies import Outgoing, WithheldReplies

log = logging.getLogger(__name__)

TOPICS_REFRESH_S = 1.0  # the shortest time between two requests for the cluster's topics
TOPICS_TIMEOUT_S = 5.0
NO_DEADLINE_MS = 1 << 63  # of an error whose query could not be read
TOPIC_GONE = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


class Split(Protocol):
    """Says of each reply whether it is sent."""

    def withheld(self, key: bytes, partition: int) -> Candidate | None:
        """The candidate because of which it is not; None if it is. Any thread may ask."""


class ReplyProducer:
    """Sends replies; knows the topics of the cluster that may get one.

    Success reports are off: handling one costs as much as sending, and competes with the event loop
    for the interpreter. The producer is not idempotent, because librdkafka's thread would then spin
    while requests are under way and more replies wait. So a reply whose acknowledgment is lost may
    arrive twice. At most one request is under way to each broker, which keeps the order of replies
    and lets replies that are ready at the same time share a request.

    `split` decides about the replies of clients; None, as without a candidate: all are sent.
    """

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._delivery = delivery
        self._producer = delivery.producer(
            "replies",
            {"delivery.report.only.error": True, "max.in.flight": 1},
            {settings.probes_topic},
        )
        self.split: Split | None = None
        self.withheld = WithheldReplies(settings, delivery, self._produce)
        self._refused = RefusedReplies(settings, delivery, self._too_large)
        self._pattern = settings.reply_topic_pattern
        # the probes' is looked at before
        self._own = {*topics_of(settings), settings.changes_topic}
        self._shadows = shadow_topic(settings.topic_prefix, "")  # how their names begin
        self._probes_topic = settings.probes_topic
        self._topics: dict[str, int] = {}  # partitions by name, of those allowed
        self._probe_topics: dict[str, int] = {}  # the same for the replies to probes
        self._refreshed = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    # -- reply topics -------------------------------------------------------------------------

    def allowed(self, topic: str, is_probe: bool = False) -> bool:
        """True if replies may ever go there, to probes or to others; the topic need not exist."""
        if is_probe or topic == self._probes_topic:
            return is_probe and topic == self._probes_topic
        return (
            self._pattern.fullmatch(topic) is not None
            and topic not in self._own
            and not topic.startswith(("__", self._shadows))
        )

    def exists(self, address: ReplyAddress, is_probe: bool = False) -> bool:
        """True if the topic is allowed, and the last metadata has it and the partition."""
        partitions = (self._probe_topics if is_probe else self._topics).get(address.topic)
        return partitions is not None and (address.partition or 0) < partitions

    async def refresh(self) -> None:
        """Ask the cluster for its topics; simultaneous callers share one request."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._refreshed + TOPICS_REFRESH_S - time.monotonic()))
            metadata = await asyncio.to_thread(
                self._producer.now.list_topics, timeout=TOPICS_TIMEOUT_S
            )
            self._topics, self._probe_topics = (
                {
                    name: len(topic.partitions)
                    for name, topic in metadata.topics.items()
                    if topic.error is None and self.allowed(name, is_probe)
                }
                for is_probe in (False, True)
            )
        except KafkaException as exc:
            log.warning("topics_unknown error=%s", exc)
        finally:
            self._refreshed = time.monotonic()
            self._refreshing = None

    # -- sending ------------------------------------------------------------------------------

    def reply(
        self,
        address: ReplyAddress,
        key: bytes | None,
        body: bytes,
        deadline_ms: int,
        partition: int = 0,
    ) -> None:
        """Hand a reply to the producer, whose thread sends it; costs a few µs.

        `partition`: of the query.
        """
        self._send(address, key, body, [], deadline_ms, partition)

    def error(
        self,
        address: ReplyAddress,
        key: bytes | None,
        user_id: int | None,
        code: str,
        text: str,
        limit: int | None = None,
        deadline_ms: int = NO_DEADLINE_MS,
        partition: int = 0,
    ) -> None:
        """Hand an error reply to the producer."""
        body = encode_error(user_id, code, text, limit)
        self._send(address, key, body, [(HEADER_ERROR, code.encode())], deadline_ms, partition)

    def _send(
        self,
        address: ReplyAddress,
        key: bytes | None,
        body: bytes,
        headers: list[tuple[str, bytes]],
        deadline_ms: int,
        partition: int,
        *,
        is_owed: bool = False,
    ) -> None:
        """`is_owed`: the client gets it whatever `split` says."""
        record_key = key
        if address.dialect == DIALECT_FAUST:
            body, record_key = wrap_faust(body, key, address.correlation_id or b""), None
        elif address.correlation_id is not None:
            headers.append((HEADER_CORRELATION_ID, address.correlation_id))
        if address.traceparent is not None:
            headers.append((HEADER_TRACEPARENT, address.traceparent))
        split = self.split
        if split is not None and not is_owed and address.topic != self._probes_topic:
            candidate = split.withheld(key or b"", partition)
            if candidate is not None:
                reply = Outgoing(address, key, record_key, body, headers, deadline_ms)
                self.withheld.take(candidate, reply, partition)
                return
        self._produce(address, key, record_key, body, headers, deadline_ms)

    def _produce(
        self,
        address: ReplyAddress,
        key: bytes | None,
        record_key: bytes | None,
        body: bytes,
        headers: list[tuple[str, bytes]],
        deadline_ms: int,
    ) -> None:
        placement: dict[str, int] = {}
        if address.partition is not None:
            placement["partition"] = address.partition
        delivered = partial(self._delivered, address, key, headers, deadline_ms)
        try:
            self._producer.now.produce(
                address.topic, body, record_key, headers=headers, on_delivery=delivered, **placement
            )
        except KafkaException as exc:
            sent = Sent(address, key, headers, deadline_ms)
            if exc.args[0].code() in TOO_LARGE and not sent.is_error:
                what = f"the worker's producer ({MESSAGE_BYTES_MAX})"
                bytes_max = MESSAGE_BYTES_MAX - sent.bytes_around
                self._refused.refuse(sent, address.topic, body, what, bytes_max)
            else:
                self._producer.note_failure(exc.args[0], address.topic, address.partition)
                self._delivery.reply_failed(address.topic, exc)
        except BufferError as exc:
            self._delivery.reply_failed(address.topic, exc)

    def _delivered(
        self,
        address: ReplyAddress,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
        deadline_ms: int,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        """Take a failure report, in the thread that polls the producers."""
        if error is None:
            return
        if error.code() in TOO_LARGE:
            sent = Sent(address, key, headers, deadline_ms)
            self._refused.send_again(sent, error, message)
            return
        self._producer.note_failure(error, address.topic, message.partition())
        if error.code() in TOPIC_GONE:
            for topics in (self._topics, self._probe_topics):
                topics.pop(address.topic, None)  # look it up before writing there again
        self._delivery.reply_failed(address.topic, error)

    def _too_large(self, sent: Sent, text: str, limit: int | None) -> None:
        user_id = None if sent.key is None else int(sent.key)  # the key of an answered query
        body = encode_error(user_id, REPLY_TOO_LARGE, text, limit)
        headers = [(HEADER_ERROR, REPLY_TOO_LARGE.encode())]
        self._send(sent.address, sent.key, body, headers, sent.deadline_ms, 0, is_owed=True)
