"""A load under which procedures are carried out, and the proof that they left nothing wrong."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from readstates.ops.demo.progress import Progress
from readstates.ops.demo.proof import compare, log_ends, wait_durable
from readstates.ops.proof.oracle import EPOCH, Oracle
from readstates.ops.proof.steady import Steady
from readstates.ops.proof.traffic import Traffic
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings

from .waiting import WAIT_S

PER_SECOND = 300
USERS = 400


class EpochOracle(Oracle):
    """An oracle of a log that has several epochs, one after the other."""

    epoch = EPOCH

    def _fold(self, event: dict[str, Any], user_id: int, version: int) -> None:
        super()._fold(event, user_id, version + ((self.epoch - EPOCH) << 48))


class Producing(Steady):
    """Sends sample traffic, bad records among it; `pause` waits until the brokers have it all."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(PER_SECOND, 0.02, due_max=PER_SECOND)
        self.settings = settings
        self._records = Traffic(25, USERS).updates(10**9)
        self._producer = self._connected()
        self._lock, self._paused = threading.Lock(), False
        self.sent, self.failed = 0, list[object]()

    def _connected(self) -> Producer:
        config = {"partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 2}
        return Producer(self.settings.librdkafka(**config))

    def tick(self, due: int) -> None:
        with self._lock:
            for _ in range(0 if self._paused else due):
                one = next(self._records)
                self._producer.produce(
                    self.settings.updates_topic, one.value, one.key, on_delivery=self._delivered
                )
                self.sent += 1
            self._producer.poll(0)

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self.failed.append(error)

    def pause(self) -> None:
        """Send nothing until `go`."""
        with self._lock:
            self._paused = True
        assert self._producer.flush(WAIT_S) == 0
        assert self.failed == []

    def go(self, *, restarted: bool = False) -> None:
        """Send again; `restarted`: as another program, which asks anew what there is, and where."""
        with self._lock:
            if restarted:
                self._producer = self._connected()
            self._paused = False


class Proof:
    """Folds the log, epoch by epoch, and holds Cassandra against it."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self.settings, self._oracle = settings, EpochOracle()
        self._next = dict.fromkeys(range(partitions), 0)

    def read(self) -> Mapping[int, int]:
        """Fold the log up to its ends, and return them. No producer may be at work."""
        ends = log_ends(self.settings, len(self._next))
        consumer = Consumer(
            self.settings.librdkafka(**{"group.id": "oracle", "enable.auto.commit": False})
        )
        topic = self.settings.updates_topic
        consumer.assign([TopicPartition(topic, n, start) for n, start in self._next.items()])
        try:
            while self._next != ends:
                message = consumer.poll(WAIT_S)
                assert message is not None, f"the log is read up to {self._next}, not {ends}"
                assert message.error() is None
                number, offset = message.partition(), message.offset()
                assert number is not None
                assert offset is not None
                self._oracle.apply(message.key(), message.value(), offset)
                self._next[number] = offset + 1
        finally:
            consumer.close()
        return ends

    def begin_epoch(self, partitions: int, *, in_new_topic: bool = False) -> None:
        """What is read from now on is of the next epoch, of so many partitions."""
        self._oracle.epoch += 1
        known = {} if in_new_topic else self._next
        self._next = {number: known.get(number, 0) for number in range(partitions)}

    def equal(self) -> int:
        """Cassandra has everything, and it is what the fold says; returns how many rows."""
        wait_durable(self.settings, dict(self.read()), Progress())
        store = Store(self.settings)
        try:
            store.prepare()
            count, differences = compare(store, self._oracle, Progress())
        finally:
            store.close()
        assert differences[:5] == []
        assert count > 0
        return count
