"""The producer of the demo, in a process of its own: it must not take the reader's interpreter."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

from confluent_kafka import Producer

from readstates.streams.config import Settings

from .traffic import Traffic, moments

CHECK_EVERY = 500  # records between two looks at the clock

_context = multiprocessing.get_context("spawn")


class Sender:
    """Produces the sample traffic, paced over some seconds as days are: busy hours, quiet ones."""

    def __init__(self, settings: Settings, seed: int, users: int, count: int, seconds: float):
        self._sent: Any = _context.Value("q", 0)
        self._failed: Any = _context.Value("q", 0)
        self._process = _context.Process(
            target=_send,
            args=(settings, seed, users, count, seconds, self._sent, self._failed),
            daemon=True,
        )

    def start(self) -> None:
        self._process.start()

    def join(self) -> None:
        """Until all was sent and acknowledged."""
        self._process.join()

    @property
    def sent(self) -> int:
        return int(self._sent.value)

    @property
    def failed(self) -> int:
        """Records that the brokers did not take; or a process that died counts as one."""
        return int(self._failed.value) + (self._process.exitcode not in (0, None))


def _send(
    settings: Settings,
    seed: int,
    users: int,
    count: int,
    seconds: float,
    sent: Any,
    failed: Any,
) -> None:
    os.nice(5)  # what is measured goes first
    producer = Producer(
        settings.librdkafka(
            **{
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 500_000,
            }
        )
    )

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.value += 1

    topic, start = settings.updates_topic, time.monotonic()
    paced = zip(Traffic(seed, users).updates(count), moments(count, seconds), strict=True)
    for number, (record, due_s) in enumerate(paced, 1):
        while True:
            try:
                producer.produce(topic, record.value, record.key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        if number % CHECK_EVERY == 0 or number == count:
            sent.value = number
            producer.poll(0)
            ahead_s = due_s - (time.monotonic() - start)
            if ahead_s > 0:
                time.sleep(ahead_s)
    failed.value += producer.flush(60)
