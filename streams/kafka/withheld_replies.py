"""Keeps the replies that a worker does not send to the client because of a candidate.

While the candidate's comparison is on, each goes to the shadow topic, with the headers that the
client would have got and HEADER_ROLE, in the partition of its query. A failure there is counted and
concerns no client.

A live worker also holds each such reply for HELD_S, as long as a query has by default. If the
candidate then stops answering the partition, which shows when its beats stay away, what is held
goes to the clients, unless its deadline is over. So a candidate that is killed costs a delay and no
reply. Some of these replies may have been sent by the candidate, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Set
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message

from readstates.schemas.headers import DEADLINE_DEFAULT_MS, HEADER_ROLE, ReplyAddress
from readstates.schemas.rollout import Candidate, shadow_topic

from .. import metrics
from ..config import Settings
from .delivery import Delivery
from .lasting_producer import LastingProducer

HELD_S = DEADLINE_DEFAULT_MS / 1000
HELD_BYTES_MAX = 32 << 20  # of values; the oldest go first
SHADOW = {
    "delivery.report.only.error": True,
    "linger.ms": 20,  # nobody waits for them
    "compression.type": "lz4",
}


class Outgoing(NamedTuple):
    """A reply as it goes to the client."""

    address: ReplyAddress
    key: bytes | None  # of the query
    record_key: bytes | None
    body: bytes
    headers: list[tuple[str, bytes]]
    deadline_ms: int


class Held(NamedTuple):
    """A reply that goes to the client if the candidate does not send it."""

    group: str
    partition: int  # of the query
    at: float  # time.monotonic()
    reply: Outgoing


class WithheldReplies:
    """See the module. `send`: sends a reply to its client, with the fields of Outgoing.

    Any thread may call.
    """

    def __init__(self, settings: Settings, delivery: Delivery, send: Callable[..., None]) -> None:
        self._settings = settings
        self._delivery = delivery
        self._send = send
        self._role = settings.role.encode()
        self._lock = threading.Lock()
        self._producer: LastingProducer | None = None
        self._held: deque[Held] = deque()
        self._held_bytes = 0

    def take(self, candidate: Candidate, reply: Outgoing, partition: int) -> None:
        """A reply is not sent because of this candidate. `partition`: of its query."""
        with self._lock:
            if not self._settings.is_candidate:
                self._hold(candidate.group, reply, partition)
            if candidate.compares:
                self._shadow(candidate.group, reply, partition)

    def _hold(self, group: str, reply: Outgoing, partition: int) -> None:
        self._held.append(Held(group, partition, time.monotonic(), reply))
        self._held_bytes += len(reply.body)
        while self._held_bytes > HELD_BYTES_MAX:
            self._held_bytes -= len(self._held.popleft().reply.body)
            metrics.WITHHELD_REPLIES["dropped"].inc()

    def forget_old(self) -> None:
        """Forget what was held for HELD_S. Call it now and then."""
        before = time.monotonic() - HELD_S
        with self._lock:
            while self._held and self._held[0].at < before:
                self._held_bytes -= len(self._held.popleft().reply.body)

    def release(self, group: str, partitions: Set[int]) -> None:
        """Send what is held because of this candidate in these partitions."""
        now, wall_ms = time.monotonic(), time.time() * 1000
        with self._lock:
            held, self._held, self._held_bytes = self._held, deque(), 0
            for one in held:
                if one.group != group or one.partition not in partitions:
                    self._held.append(one)
                    self._held_bytes += len(one.reply.body)
                elif now - one.at <= HELD_S and wall_ms < one.reply.deadline_ms:
                    self._send(*one.reply)
                    metrics.WITHHELD_REPLIES["released"].inc()

    # -- the shadow topic -------------------------------------------------------------------------

    def _shadow(self, group: str, reply: Outgoing, partition: int) -> None:
        if self._producer is None:
            self._producer = self._delivery.producer("shadow", SHADOW)
        topic = shadow_topic(self._settings.topic_prefix, group)
        headers = [*reply.headers, (HEADER_ROLE, self._role)]
        try:
            self._producer.now.produce(
                topic,
                reply.body,
                reply.record_key,
                partition,
                headers=headers,
                on_delivery=self._delivered,
            )
        except (BufferError, KafkaException) as exc:
            self._delivery.shadow_failed(topic, exc)
        else:
            metrics.WITHHELD_REPLIES["shadowed"].inc()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._producer is not None:
            topic = str(message.topic())
            self._producer.note_failure(error, topic, message.partition())
            self._delivery.shadow_failed(topic, error)
