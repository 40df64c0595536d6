"""Sends many records to our topics: an idempotent producer that counts what the brokers took."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from confluent_kafka import Producer

from ..config import Settings
from ..errors import SendError

WAIT_S = 0.1  # for room in the producer's queue
FLUSH_TIMEOUT_S = 60.0
PROGRESS_S = 2.0  # between two lines of progress; what is done sooner needs none
PROGRESS_RECORDS = 1000  # between two looks at the clock
MESSAGE_BYTES_MAX = 2 << 20  # over every topic's limit: the broker decides
BY_KEY = -1  # the partition to which the record's key belongs

Headers = list[tuple[str, bytes | None]]


class Sender:
    """Sends records one by one; `finish` waits until the brokers have them.

    The first record that the brokers refuse ends the sending: every method then raises SendError.
    `linger_ms`: how long a record may wait for others to go with.
    """

    def __init__(self, settings: Settings, *, linger_ms: int = 20) -> None:
        self._producer = Producer(
            settings.librdkafka(
                **{
                    "client.id": "read-states-shell",
                    "partitioner": "murmur2_random",
                    "enable.idempotence": True,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "allow.auto.create.topics": False,
                    "linger.ms": linger_ms,
                    "log_level": 3,
                }
            )
        )
        self.delivered = 0
        self.last_offsets: dict[tuple[str, int], int] = {}  # by topic and partition
        self._error: object = None

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int = BY_KEY,
        headers: Headers | None = None,
        delivered: Callable[[int], None] | None = None,
    ) -> None:
        """Queue one record; waits while the queue is full.

        `delivered` is called with the offset that the record gets.
        """
        report = self._delivered if delivered is None else partial(self._delivered, tell=delivered)
        while True:
            try:
                self._producer.produce(topic, value, key, partition, report, headers=headers or [])
            except BufferError:
                self._producer.poll(WAIT_S)
                self._check()
            else:
                break
        self.poll()

    def poll(self) -> None:
        """Handle the answers that the brokers have sent so far."""
        self._producer.poll(0)
        self._check()

    def finish(self) -> None:
        """Wait until the brokers have all records."""
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        self._check()
        if left:
            raise SendError(f"{self._so_far()}; the brokers did not answer for {left} more")

    def _delivered(
        self, error: Any, message: Any, tell: Callable[[int], None] | None = None
    ) -> None:
        if error is not None:
            self._error = self._error or f"{message.topic()}: {error}"
            return
        self.delivered += 1
        place, offset = (message.topic(), message.partition()), message.offset()
        self.last_offsets[place] = max(offset, self.last_offsets.get(place, -1))
        if tell is not None:
            tell(offset)

    def _check(self) -> None:
        if self._error is not None:
            self._producer.purge()
            raise SendError(f"{self._so_far()}; then the brokers refused one for {self._error}")

    def _so_far(self) -> str:
        topics = sorted({topic for topic, _ in self.last_offsets})
        return f"{self.delivered} records are in {' and '.join(topics) or 'the log'}"


class Progress:
    """Prints a line every PROGRESS_S seconds on standard error while a command takes longer."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._next = time.monotonic() + PROGRESS_S

    def step(self) -> None:
        self._count += 1
        if self._count % PROGRESS_RECORDS == 0 and time.monotonic() > self._next:
            self._next = time.monotonic() + PROGRESS_S
            click.echo(f"{self._count:,} {self._what}", err=True)
