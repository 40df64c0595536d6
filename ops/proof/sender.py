"""The producer of the sample traffic, in a process of its own: its interpreter is not the asker's.

    with Sender(seed, users) as sender:
        sender.make(USUAL, 50_000)          # ahead of time, because making a record costs much CPU
        sender.connect(settings)
        sender.send(USUAL, 50_000, 20)      # spread over 20 s; None: as fast as the brokers take it
        sender.wait()                       # until all of it is acknowledged

Orders are carried out one after the other. Records come from one `Traffic`, in the order in which
they are made: whoever makes records ahead makes those of all stretches in the order of sending.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import Producer

from readstates.streams.config import Settings

from .traffic import Record, Traffic, moments

CHECK_EVERY_S = 0.005  # between two looks at the clock
DAYS = 3.0  # waves of busy and quiet hours in a stretch that has them
FLUSH_TIMEOUT_S = 60.0
NICE = 10  # what is measured goes first
FILL, USUAL, CROWDS = "fill", "usual", "crowds"  # kinds of traffic: see `Traffic`
PRODUCER = {
    "partitioner": "murmur2_random",
    "enable.idempotence": True,
    "linger.ms": 5,
    "queue.buffering.max.messages": 500_000,
}

_context = multiprocessing.get_context("spawn")


class Order(NamedTuple):
    """What the process is told: make so many records, or send them over `seconds`."""

    kind: str
    records: int
    to: Settings | None = None  # None: make them only
    seconds: float | None = None
    days: float = 0.0


class Sender:
    """See the module. `absent`: users who are filled in, and then only mentioned by crowds."""

    def __init__(self, seed: int, users: int, absent: Sequence[int] = ()):
        self._sent: Any = _context.Value("q", 0)
        self._failed: Any = _context.Value("q", 0)
        self._orders, self._theirs = _context.Pipe()
        self._process = _context.Process(
            target=_work,
            args=(seed, users, absent, self._theirs, self._sent, self._failed),
            daemon=True,
        )
        self._under_way = 0
        self._to: Settings | None = None

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that its death ends the pipe
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is not None:
            self._process.kill()
        self._orders.close()  # which ends the process
        self._process.join()

    def make(self, kind: str, count: int) -> None:
        """Make records ahead of time; the next `send` of that kind takes them first."""
        self._order(Order(kind, count))

    def connect(self, settings: Settings) -> None:
        """Where `send` sends to from now on."""
        self._to = settings

    def send(self, kind: str, count: int, seconds: float | None, *, days: float = 0.0) -> None:
        """Send records: evenly, or in `days` waves, or (`seconds` None) as fast as it goes."""
        assert self._to is not None, "connect it first"
        self._order(Order(kind, count, self._to, seconds, days))

    def _order(self, order: Order) -> None:
        self._orders.send(order)
        self._under_way += 1

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until all orders are carried out and acknowledged; False after `timeout_s`."""
        while self._under_way:
            if not self._orders.poll(timeout_s):
                return False
            try:
                self._orders.recv()
            except (EOFError, OSError):  # it died, which `failed` counts
                self._process.join()
                self._under_way = 0
                break
            self._under_way -= 1
        return True

    @property
    def pid(self) -> int:
        """The process's."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sent(self) -> int:
        """Records handed to the producer since the start."""
        return int(self._sent.value)

    @property
    def failed(self) -> int:
        """Records that the brokers did not take; a process that died counts as one."""
        return int(self._failed.value) + (self._process.exitcode not in (0, None))


def _work(
    seed: int,
    users: int,
    absent: Sequence[int],
    orders: Connection,
    sent: Any,
    failed: Any,
) -> None:
    os.nice(NICE)
    producer: Producer | None = None
    traffic = Traffic(seed, users, absent)
    sources: dict[str, Callable[[int], Iterator[Record]]] = {
        FILL: traffic.fill,
        USUAL: traffic.updates,
        CROWDS: traffic.crowds,
    }
    made: dict[str, list[Record]] = {kind: [] for kind in sources}
    while True:
        try:
            order: Order = orders.recv()
        except (EOFError, KeyboardInterrupt):
            return
        ahead, source = made[order.kind], sources[order.kind]
        if order.to is None:
            ahead.extend(source(order.records))
        else:
            producer = producer or Producer(order.to.librdkafka(**PRODUCER))
            records = itertools.chain(ahead[: order.records], source(order.records - len(ahead)))
            _send(producer, order.to.updates_topic, records, order, sent, failed)
            del ahead[: order.records]
        orders.send(order.kind)


def _send(
    producer: Producer,
    topic: str,
    records: Iterator[Record],
    order: Order,
    sent: Any,
    failed: Any,
) -> None:
    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.value += 1

    count, seconds = order.records, order.seconds
    due: Iterator[float] = itertools.repeat(0.0)
    if seconds is not None:
        even = (number * seconds / count for number in range(count))
        due = moments(count, seconds, order.days) if order.days else even
    start, done = time.monotonic(), sent.value
    now = start
    for number, (record, due_s) in enumerate(zip(records, due, strict=False), 1):
        while True:
            try:
                producer.produce(topic, record.value, record.key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        if start + due_s > now or number % 500 == 0:
            sent.value = done + number
            producer.poll(0)
            now = time.monotonic()
            if start + due_s > now:
                time.sleep(max(CHECK_EVERY_S, start + due_s - now))
                now = time.monotonic()
    sent.value = done + count
    failed.value += producer.flush(FLUSH_TIMEOUT_S)
