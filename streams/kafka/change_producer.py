"""Sends the records of the change feed; call it on the event loop.

The producer is idempotent, so what is sent again within it is in the topic once and in order. It
keeps nothing of a record that the broker did not take: `done` says so, and the change feed tells
of the user again. The thread that polls the worker's producers notes how each record ended, and
`poll` tells the change feed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaException

from readstates.schemas.changes import HEADER_CAUSE, HEADER_PART

from .. import metrics
from ..config import Settings
from .delivery import Delivery

LINGER_MS = 2  # what one step of the feed sends shares a batch
TIMEOUT_MS = 10_000  # after which a record counts as not taken, and its user is told of again

Done = Callable[[bool], None]


class ChangeProducer:
    """See the module."""

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._topic = settings.changes_topic
        self._delivery = delivery
        self._ended: deque[tuple[int, int, Done, Any]] = deque()  # partition, bytes, …, error
        config = {
            "enable.idempotence": True,
            "linger.ms": LINGER_MS,
            "message.timeout.ms": TIMEOUT_MS,
        }
        self._producer = delivery.producer("changes", config, {self._topic})

    def send(
        self,
        partition: int,
        key: bytes,
        values: Sequence[bytes],
        causes: bytes,
        done: Done,
    ) -> None:
        """Send one change in one or more records.

        `poll` calls `done` later, once: with True if the broker has all records.
        """
        headers = [(HEADER_CAUSE, causes)]
        if len(values) == 1:
            self._produce(partition, key, values[0], headers, done)
            return
        left, all_taken = len(values), True

        def ended(taken: bool) -> None:
            nonlocal left, all_taken
            left -= 1
            all_taken = all_taken and taken
            if left == 0:
                done(all_taken)

        for number, value in enumerate(values, 1):
            part = (HEADER_PART, b"%d/%d" % (number, len(values)))
            self._produce(partition, key, value, [*headers, part], ended)

    def _produce(
        self, partition: int, key: bytes, value: bytes, headers: list[Any], done: Done
    ) -> None:
        report = partial(self._delivered, partition, len(value), done)
        try:
            self._producer.now.produce(
                self._topic, value, key, partition, headers=headers, on_delivery=report
            )
        except KafkaException as exc:
            report(exc.args[0], None)
        except BufferError as exc:
            self._ended.append((partition, len(value), done, exc))

    def _delivered(self, partition: int, size: int, done: Done, error: Any, _message: Any) -> None:
        """Take a report, in the thread that polls the producers."""
        if error is not None:
            self._producer.note_failure(error, self._topic, partition)
        self._ended.append((partition, size, done, error))

    def poll(self) -> None:
        """Call `done` of the changes whose end is known."""
        taken = taken_bytes = 0
        while self._ended:
            partition, size, done, error = self._ended.popleft()
            if error is None:
                taken += 1
                taken_bytes += size
            else:
                self._delivery.change_failed(self._topic, partition, error)
            done(error is None)
        if taken:
            metrics.CHANGES.inc(taken)
            metrics.CHANGES_BYTES.inc(taken_bytes)
