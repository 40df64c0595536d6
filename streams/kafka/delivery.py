"""The settings, the thread and the log of failures that the worker's producers share.

librdkafka reports a delivery only while its producer is polled. One thread polls all of them: it
waits for reports about replies, and looks for the others' reports in between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Set
from functools import partial
from typing import Any

from confluent_kafka import Producer
from prometheus_client import Counter

from .. import metrics
from ..config import Settings
from .lasting_producer import LastingProducer
from .pulse import Pulse

log = logging.getLogger(__name__)

POLL_S = 0.1
SILENT_MAX_S = 60.0  # a turn takes milliseconds, and waits for no broker
JOIN_TIMEOUT_S = 2.0
FLUSH_TIMEOUT_S = 3.0
MESSAGE_BYTES_MAX = 8 << 20  # the producer's own bound, above every topic's
QUEUE_KIB_MAX = 64 << 10  # of each producer, not yet sent: memory while brokers are slow
FAILURE_LOG_S = 60.0  # between two log lines about failures: clients could otherwise fill the disk


class Failures:
    """Counts the records of one kind that a broker did not take, and says which to log.

    There is one log line in FAILURE_LOG_S for each kind, so that failures of one kind do not hide
    those of another.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._logged = -FAILURE_LOG_S

    def count(self) -> bool:
        """Count a record; False if one of its kind was logged just before."""
        self._counter.inc()
        is_due = time.monotonic() - self._logged > FAILURE_LOG_S
        if is_due:
            self._logged = time.monotonic()
        return is_due


class Delivery:
    """Makes, polls and closes producers; the one that was made last is flushed first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producers: tuple[LastingProducer, ...] = ()
        self._replies = Failures(metrics.REPLY_FAILURES)
        self._dead_letters = Failures(metrics.DEAD_LETTER_FAILURES)
        self._clocks = Failures(metrics.CLOCK_FAILURES)
        self._probes = Failures(metrics.PROBE_REPLY_FAILURES)
        self._changes = Failures(metrics.CHANGES_FAILURES)
        self._shadow = Failures(metrics.WITHHELD_REPLIES["shadow_failed"])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="delivery", daemon=True)
        self.pulse = Pulse(self._thread.name, SILENT_MAX_S, is_vital=True)

    @property
    def closing(self) -> bool:
        """True once `close` was called: nothing is sent again."""
        return self._stopping.is_set()

    def producer(
        self, name: str, config: dict[str, Any], topics: Set[str] = frozenset()
    ) -> LastingProducer:
        """Make a producer with these settings, on top of those that all producers have.

        `topics`: those of the service that it sends to.
        """
        shared = {
            "client.id": "read-states-worker",
            "partitioner": "murmur2_random",
            "linger.ms": 0,
            "acks": "all",
            "message.max.bytes": MESSAGE_BYTES_MAX,
            "message.timeout.ms": 30_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": QUEUE_KIB_MAX,
            "allow.auto.create.topics": False,
        }
        make = partial(Producer, self._settings.librdkafka(**shared | config))
        producer = LastingProducer(name, topics, make)
        self._producers = (*self._producers, producer)
        if not self._thread.is_alive():
            self._thread.start()
        return producer

    def topic_made_anew(self, topic: str) -> None:
        """The watch has seen that this topic was deleted and made anew."""
        for producer in self._producers:
            producer.topic_made_anew(topic)

    def reply_failed(self, topic: str, error: object) -> None:
        """Note a reply that was not delivered."""
        if topic == self._settings.probes_topic:
            if self._probes.count():
                log.warning("probe_reply_not_delivered topic=%s error=%s", topic, error)
        elif self._replies.count():
            log.warning(
                "reply_not_delivered topic=%s error=%s: its client hears nothing until its "
                "deadline. See ReadStatesRepliesFail.md",
                topic,
                error,
            )

    def dead_letter_failed(
        self, topic: str, partition: int, offset: int, reason: str, error: object
    ) -> None:
        """Note a dead letter that was not delivered; `partition` and `offset`: of its update."""
        if self._dead_letters.count():
            log.warning(
                "dead_letter_not_delivered topic=%s partition=%d offset=%d reason=%s error=%s: the "
                "worker sends it again until the broker takes it; until then the commits of its "
                "partition wait. See ReadStatesDeadLettersFail.md",
                topic,
                partition,
                offset,
                reason,
                error,
            )

    def change_failed(self, topic: str, partition: int, error: object) -> None:
        """Note a record of the change feed that was not delivered."""
        if self._changes.count():
            log.warning(
                "change_not_delivered topic=%s partition=%d error=%s: the worker tells of the user "
                "again until the broker takes it; until then the commits of its partition wait. "
                "See ReadStatesChangesHeld.md",
                topic,
                partition,
                error,
            )

    def shadow_failed(self, topic: str, error: object) -> None:
        """Note a reply that did not get into a candidate's shadow topic."""
        if self._shadow.count():
            log.warning(
                "shadow_not_delivered topic=%s error=%s: the comparison misses a reply; no client "
                "does. Does the topic exist? `readstates rollout start` makes it",
                topic,
                error,
            )

    def clock_failed(self, topic: str, partition: int, error: object) -> None:
        """Note a record for comparing clocks that was not delivered."""
        if self._clocks.count():
            log.warning(
                "clock_not_measured topic=%s partition=%d error=%s: the deadlines of queries are "
                "judged by this machine's clock alone. A worker needs Write on the queries topic "
                "for this: see SECURITY.md",
                topic,
                partition,
                error,
            )

    def close(self) -> None:
        """Send what is queued, within FLUSH_TIMEOUT_S for each producer."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT_S)
        for producer in reversed(self._producers):
            producer.flush(FLUSH_TIMEOUT_S)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self.pulse.beat()
            first, *others = self._producers
            first.poll(POLL_S)
            for producer in others:
                producer.poll(0)
