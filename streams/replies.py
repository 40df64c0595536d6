"""What the service sends: replies and error replies, and dead letters.

A reply goes only to a topic that fully matches REPLY_TOPICS, exists, and is none of the service's
own: whoever can write queries must not be able to make the service write elsewhere. Topics are
never created: known ones come from the cluster's metadata, asked for as a whole, at most once a
second. Replies are not retried by us beyond the producer's own retries; a client that misses one
asks again. Dead letters are: they hold their offset until the broker has them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from readstates.schemas.dead_letters import Origin, origin_headers
from readstates.schemas.headers import (
    DIALECT_FAUST,
    HEADER_CORRELATION_ID,
    HEADER_ERROR,
    ReplyAddress,
)
from readstates.schemas.replies import encode_error, wrap_faust
from readstates.streams import metrics
from readstates.streams.batch import UnreadBatch
from readstates.streams.config import Settings

log = logging.getLogger(__name__)

TOPICS_REFRESH_S = 1.0  # the shortest time between two looks at the cluster's topics
DEAD_LETTER_RETRY_S = 1.0
POLL_S = 0.05
FLUSH_TIMEOUT_S = 3.0
MESSAGE_BYTES_MAX = 8 << 20  # the producer's own bound, above every topic's
QUEUE_KIB_MAX = 64 << 10  # of each producer, not yet sent: memory while brokers are slow
FAILURE_LOG_S = 60.0  # between two log lines about replies; whoever asks could fill the disk
CUT_BYTES = 64 << 10  # what is kept of a dead letter that no broker takes as a whole
TOO_LARGE = {KafkaError._BAD_MSG, KafkaError.MSG_SIZE_TOO_LARGE}
TOPIC_GONE = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


class Output:
    """The producers, their delivery thread, and what is known of the cluster's topics.

    Replies report failures only: a report of each cost as much as the reply, in a thread that takes
    the interpreter from the loop. Nor are they idempotent, which has librdkafka's thread spin while
    it must wait for a broker (46 µs of CPU a reply of 50 read states, 5 without): one whose
    acknowledgment is lost may come twice. A broker has one request of them at a time, which keeps
    their order, and lets the replies of a crowd go together.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = self._make_producer(
            {"delivery.report.only.error": True, "max.in.flight": 1}
        )
        self._letters = self._make_producer({"enable.idempotence": True})
        self._pattern = settings.reply_topic_pattern
        self._own = {settings.updates_topic, settings.queries_topic, settings.dead_letters_topic}
        self._topics: dict[str, int] = {}
        self._refreshed = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self._failure_logged = -FAILURE_LOG_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="delivery", daemon=True)
        self._thread.start()

    def _make_producer(self, more: dict[str, Any]) -> Producer:
        return Producer(
            self._settings.librdkafka(
                **{
                    "client.id": "read-states-worker",
                    "partitioner": "murmur2_random",
                    "linger.ms": 0,
                    "acks": "all",
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "message.timeout.ms": 30_000,
                    "queue.buffering.max.messages": 1_000_000,
                    "queue.buffering.max.kbytes": QUEUE_KIB_MAX,
                    "allow.auto.create.topics": False,
                    **more,
                }
            )
        )

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)
            self._letters.poll(0)

    def close(self) -> None:
        """Send what is queued, within FLUSH_TIMEOUT_S."""
        self._stopping.set()
        self._thread.join(timeout=2)
        for producer in (self._letters, self._producer):
            producer.flush(FLUSH_TIMEOUT_S)

    # -- reply topics -------------------------------------------------------------------------

    def allowed(self, topic: str) -> bool:
        """True if replies may ever go there; says nothing about the topic's existence."""
        return (
            self._pattern.fullmatch(topic) is not None
            and topic not in self._own
            and not topic.startswith("__")
        )

    def exists(self, address: ReplyAddress) -> bool:
        """True if the topic is allowed, and in the metadata seen last with the partition asked."""
        partitions = self._topics.get(address.topic)
        return partitions is not None and (address.partition or 0) < partitions

    async def refresh(self) -> None:
        """Ask the cluster for its topics; callers at the same time share one request."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._refreshed + TOPICS_REFRESH_S - time.monotonic()))
            found = await asyncio.to_thread(self._producer.list_topics, timeout=5)
            self._topics = {
                name: len(topic.partitions)
                for name, topic in found.topics.items()
                if topic.error is None and self.allowed(name)
            }
        except KafkaException as exc:
            log.warning("topics_unknown error=%s", exc)
        finally:
            self._refreshed = time.monotonic()
            self._refreshing = None

    # -- sending ------------------------------------------------------------------------------

    def reply(self, address: ReplyAddress, key: bytes | None, body: bytes) -> None:
        """Hand a reply to the producer; cost some µs, it is sent in the producer's thread."""
        self._send(address, key, body, [])

    def error(
        self, address: ReplyAddress, key: bytes | None, user_id: int | None, code: str, text: str
    ) -> None:
        """Hand an error reply to the producer."""
        body = encode_error(user_id, code, text)
        self._send(address, key, body, [(HEADER_ERROR, code.encode())])

    def _send(
        self,
        address: ReplyAddress,
        key: bytes | None,
        body: bytes,
        headers: list[tuple[str, bytes]],
    ) -> None:
        if address.dialect == DIALECT_FAUST:
            body, key = wrap_faust(body, key, address.correlation_id or b""), None
        elif address.correlation_id is not None:
            headers.append((HEADER_CORRELATION_ID, address.correlation_id))
        more: dict[str, Any] = {}
        if address.partition is not None:
            more["partition"] = address.partition
        try:
            self._producer.produce(
                address.topic, body, key, headers=headers, on_delivery=self._delivered, **more
            )
        except (BufferError, KafkaException) as exc:
            self._failed(address.topic, exc)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            if error.code() in TOPIC_GONE:
                self._topics.pop(message.topic(), None)  # look again before writing there again
            self._failed(message.topic(), error)

    def _failed(self, topic: str, error: object) -> None:
        metrics.REPLY_FAILURES.inc()
        if time.monotonic() - self._failure_logged > FAILURE_LOG_S:
            self._failure_logged = time.monotonic()
            log.warning("reply_not_delivered topic=%s error=%s", topic, error)

    def dead_letter(
        self,
        record: Any,
        partition: int,
        reason: str,
        kept: Callable[[], None],
        *,
        cut: bool = False,
    ) -> None:
        """Keep an update with its reason; `kept` is called on the loop once the broker has it.

        Tried again until it is: the record's offset is held that long. One that is too large for
        the topic (it came compressed) is `cut`, and a header says how long it was. A batch that
        cannot be read is kept as it stands in the log, under its first offset.
        """
        loop = asyncio.get_running_loop()
        value, offset, last, length = record.value, record.offset, None, 0
        if isinstance(record, UnreadBatch):
            value, offset, last = record.raw, record.first, record.offset
        if cut or len(value or b"") > MESSAGE_BYTES_MAX:  # which the producer would refuse
            cut = True
            value, length = value[:CUT_BYTES], len(value)
        topic = self._settings.updates_topic
        origin = Origin(reason, topic, partition, offset, length, last)

        def later(cut: bool, delay_s: float = DEAD_LETTER_RETRY_S) -> None:
            if not self._stopping.is_set():
                again = partial(self.dead_letter, record, partition, reason, kept, cut=cut)
                loop.call_later(delay_s, again)

        def delivered(error: Any, _message: Any) -> None:
            if loop.is_closed():
                return
            if error is None:
                loop.call_soon_threadsafe(kept)
            else:
                loop.call_soon_threadsafe(failed, error)

        def failed(error: Any) -> None:
            self._failed(self._settings.dead_letters_topic, error)
            if error.code() in TOO_LARGE and not cut:
                later(cut=True, delay_s=0)  # the partition may wait for it
            else:
                later(cut)

        try:
            self._letters.produce(
                self._settings.dead_letters_topic,
                value,
                record.key,
                headers=origin_headers(origin),
                on_delivery=delivered,
            )
        except KafkaException as exc:
            failed(exc.args[0])
        except BufferError as exc:
            self._failed(self._settings.dead_letters_topic, exc)
            later(cut)
