"""Updates under way: a paced producer of them, and the log as a plain consumer reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Message, Producer

from readstates.ops.proof.oracle import Oracle

from .rows import Row
from .service import USER_STATES_MAX
from .waiting import WAIT_S
from .wire import PARTITIONS, TopicReader, Wire, encode


class Log:
    """The updates topic as a plain consumer reads it, folded into an oracle on the way."""

    def __init__(self, wire: Wire, only: Callable[[int], bool] = lambda _user: True) -> None:
        self._wire, self._only = wire, only
        self.oracle = Oracle(USER_STATES_MAX)
        self._reader = TopicReader(wire.bootstrap, wire.updates, PARTITIONS)
        self._next = [0] * PARTITIONS

    def read(self) -> list[int]:
        """Folds all records up to the ends as they are now; returns those ends."""
        ends = self._wire.ends(self._wire.updates)
        while self._next != ends:
            message = self._reader.poll(1)
            if message is None:
                continue
            number, offset, key = message.partition(), message.offset(), message.key()
            assert number is not None
            assert offset is not None
            assert offset >= self._next[number]
            self._next[number] = offset + 1
            if key is not None and key.isdigit() and self._only(int(key)):
                self.oracle.apply(key, message.value(), offset)
        return ends

    def rows(self) -> dict[tuple[int, int, int], Row]:
        """What Cassandra must hold, by (user, type, channel)."""
        return {
            (user, row[0], row[1]): row
            for user in self.oracle.users
            for row in self.oracle.stored(user)
        }

    def close(self) -> None:
        self._reader.close()


def together(wire: Wire, events: Sequence[tuple[int, dict[str, Any]]]) -> list[int]:
    """Sends an update of each of these users, who are all different, at once; their offsets."""
    offsets: dict[bytes | None, int] = {}

    def delivered(error: object, message: Message) -> None:
        offset = message.offset()
        assert error is None, error
        assert offset is not None
        offsets[message.key()] = offset

    producer = Producer({"bootstrap.servers": wire.bootstrap, "partitioner": "murmur2_random"})
    for user, event in events:
        producer.produce(wire.updates, encode(user, event), str(user), on_delivery=delivered)
    assert producer.flush(WAIT_S) == 0
    return [offsets[str(user).encode()] for user, _ in events]


class Load(threading.Thread):
    """Produces updates, paced, until it is told to stop; `pause` waits for the broker's acks."""

    def __init__(
        self, wire: Wire, events: Iterable[tuple[int, dict[str, Any]]], per_second: int
    ) -> None:
        super().__init__(daemon=True)
        self._wire, self._events, self._gap_s = wire, iter(events), 1 / per_second
        self._running, self._idle, self._end = (threading.Event() for _ in range(3))
        self._idle.set()
        self.failed: list[object] = []
        self.sent = 0
        self._producer = Producer(
            {
                "bootstrap.servers": wire.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
            }
        )
        self.start()

    def run(self) -> None:
        def delivered(error: object, _message: object) -> None:
            if error is not None:
                self.failed.append(error)

        while not self._end.is_set():
            if not self._running.is_set():
                self._producer.flush(WAIT_S)
                self._idle.set()
                self._running.wait(0.05)
                continue
            user, event = next(self._events)
            self._producer.produce(
                self._wire.updates, encode(user, event), str(user), on_delivery=delivered
            )
            self.sent += 1
            if self.sent % 20 == 0:
                self._producer.poll(0)
                time.sleep(20 * self._gap_s)

    def go(self) -> None:
        self._idle.clear()
        self._running.set()

    def pause(self) -> None:
        self._running.clear()
        assert self._idle.wait(WAIT_S)
        assert self.failed == []

    def close(self) -> None:
        self._end.set()
        self._running.set()
        self.join(WAIT_S)
        self._producer.flush(WAIT_S)
