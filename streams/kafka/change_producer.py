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


class ChangeProducer:
    """See the module."""

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._topic = settings.changes_topic
        self._delivery = delivery
        self._ended: deque[tuple[Callable[[Any], None], Any]] = deque()
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
        done: Callable[[bool], None],
    ) -> None:
        """Send one change in one or more records.

        `poll` calls `done` later, once: with True if the broker has all records.
        """
        left, failed = len(values), False

        def ended(size: int, error: Any) -> None:
            nonlocal left, failed
            left -= 1
            if error is None:
                metrics.CHANGES.inc()
                metrics.CHANGES_BYTES.inc(size)
            else:
                failed = True
                self._delivery.change_failed(self._topic, partition, error)
            if left == 0:
                done(not failed)

        for number, value in enumerate(values, 1):
            headers = [(HEADER_CAUSE, causes)]
            if len(values) > 1:
                headers.append((HEADER_PART, b"%d/%d" % (number, len(values))))
            report = partial(self._delivered, partition, partial(ended, len(value)))
            try:
                self._producer.now.produce(
                    self._topic,
                    value,
                    key,
                    partition,
                    headers=headers,
                    on_delivery=report,
                )
            except KafkaException as exc:
                report(exc.args[0], None)
            except BufferError as exc:
                self._ended.append((partial(ended, len(value)), exc))

    def _delivered(
        self, partition: int, ended: Callable[[Any], None], error: Any, _message: Any
    ) -> None:
        """Take a report, in the thread that polls the producers."""
        if error is not None:
            self._producer.note_failure(error, self._topic, partition)
        self._ended.append((ended, error))

    def poll(self) -> None:
        """Call `done` of the changes whose end is known."""
        while self._ended:
            ended, error = self._ended.popleft()
            ended(error)
