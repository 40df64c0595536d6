"""Sends dead letters: updates that cannot be applied, kept with their reason in a separate topic.

A dead letter holds the offset of its update until the broker has the letter, which is sent again
until then.

How much a writer of updates can make the topic grow is bounded. The letters are compressed, because
the updates may have been: 169 KB of them can unpack to 69 MB. A value that is too large to be an
update is cut, and so is such a key. The topic itself is bounded in bytes (`topics.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException

from readstates.schemas.dead_letters import Origin, origin_headers
from readstates.schemas.events import EVENT_BYTES_MAX

from ..config import Settings
from ..partition.batch import UnreadBatch
from .delivery import MESSAGE_BYTES_MAX, Delivery

RETRY_S = 1.0
CUT_BYTES = 64 << 10  # kept of a value that is too large to be an update, or for the brokers
KEY_BYTES_MAX = 1 << 10  # kept of a key; the key of an update is a number of at most 19 digits
COMPRESSION = {
    "compression.type": "zstd",
    "linger.ms": 20,  # a few letters share a batch, which compresses them far better
}
TOO_LARGE = {KafkaError._BAD_MSG, KafkaError.MSG_SIZE_TOO_LARGE}


class Rejected(Protocol):
    """The parts of an update that are kept; a parked update has only these."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class DeadLetterProducer:
    """Sends dead letters; call it on the event loop."""

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._updates_topic = settings.updates_topic
        self._topic = settings.dead_letters_topic
        self._delivery = delivery
        self._producer = delivery.producer(
            "dead-letters", {"enable.idempotence": True, **COMPRESSION}, {self._topic}
        )

    def send(
        self,
        record: Rejected,
        partition: int,
        reason: str,
        kept: Callable[[], None],
        *,
        cut: bool = False,
    ) -> None:
        """Keep an update with its reason; `kept` is called on the loop once the broker has it.

        The letter is sent again until then. A value that is too large to be an update is `cut`, and
        a header says how long it was; so is one that the topic does not take. A batch that cannot
        be read is kept as it is in the log, under its first offset.
        """
        loop = asyncio.get_running_loop()
        value, offset, last, length = record.value, record.offset, None, 0
        if isinstance(record, UnreadBatch):
            value, offset, last = record.raw, record.first, record.offset
            cut = cut or len(value) > MESSAGE_BYTES_MAX  # the producer would refuse it
        else:
            cut = cut or len(value or b"") > EVENT_BYTES_MAX
        if cut and value is not None and len(value) > CUT_BYTES:
            value, length = value[:CUT_BYTES], len(value)
        key = record.key
        key_length = len(key) if key is not None and len(key) > KEY_BYTES_MAX else 0
        if key is not None:
            key = key[:KEY_BYTES_MAX]
        origin = Origin(reason, self._updates_topic, partition, offset, length, last, key_length)

        def note(error: object) -> None:
            self._delivery.dead_letter_failed(self._topic, partition, offset, reason, error)

        def send_later(cut: bool, delay_s: float = RETRY_S) -> None:
            if not self._delivery.closing:
                again = partial(self.send, record, partition, reason, kept, cut=cut)
                loop.call_later(delay_s, again)

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                self._producer.note_failure(error, self._topic, message.partition())
            if loop.is_closed():
                return
            if error is None:
                loop.call_soon_threadsafe(kept)
            else:
                loop.call_soon_threadsafe(failed, error)

        def failed(error: Any) -> None:
            note(error)
            if error.code() in TOO_LARGE and not cut:
                send_later(cut=True, delay_s=0)  # the partition may wait for it
            else:
                send_later(cut)

        try:
            self._producer.now.produce(
                self._topic,
                value,
                key,
                headers=origin_headers(origin),
                on_delivery=delivered,
            )
        except KafkaException as exc:
            self._producer.note_failure(exc.args[0], self._topic, None)
            failed(exc.args[0])
        except BufferError as exc:
            note(exc)
            send_later(cut)
