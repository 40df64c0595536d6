"""Compares this machine's clock with the brokers' clocks, which stamp the queries.

The age of a query is the time since its timestamp, so the broker's clock must judge it. If this
machine's clock is 8 s ahead, each query would look older than its deadline, and nobody would get a
reply.

How it works.
1. The worker sends a small record of its own to each of its partitions of `queries`, every
   MEASURE_EVERY_S, unless it has sent a probe there (`prober.py`), which serves as well. The leader
   stamps it after it was sent, and before its acknowledgment came. Both moments are taken from our
   monotonic clock, which nobody can set. So the difference between that clock and the leader's is
   between two bounds.
2. A measurement narrows the bounds of its partition. They widen with time, because clocks drift. If
   a measurement contradicts them, a broker's clock was set, or another broker leads the partition:
   then it replaces them.
3. The correction is the smallest that the bounds allow. It is zero as long as the wall clock may be
   right, and also while nothing could be measured.

A new partition uses the bounds of the latest measurement of any partition until it has its own.
The measurements arrive in the thread that polls the producers, or in the probe's; everything else
is called on the event loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message

from readstates.schemas.headers import HEADER_CLOCK

from .. import metrics
from ..config import Settings
from .delivery import Delivery

log = logging.getLogger(__name__)

STEP_S = 1.0  # between two calls of `step`
MEASURE_EVERY_S = 10  # between two measurements of a partition
MEASURE_TIMEOUT_MS = 5_000  # a record that was not taken until then measures nothing
FIRST_TIMEOUT_S = 2.0  # how long a start waits for the first measurement
FIRST_PARTITIONS = 8  # that are measured then: the leader of one may be away
DRIFT = 0.0005  # the most that two clocks part: NTP slews one by as much
WRONG_MS = 1_000  # a clock that differs by more is logged, and the alert's limit
LOG_S = 60.0


class Bounds(NamedTuple):
    """Our monotonic clock less a leader's clock, in ms: at least `low`, at most `high`."""

    low: float
    high: float
    at_ms: float  # when this was measured, by our monotonic clock

    def widened(self, now_ms: float) -> Bounds:
        """These bounds at a later moment."""
        drift = DRIFT * max(0.0, now_ms - self.at_ms)
        return Bounds(self.low - drift, self.high + drift, now_ms)


def measured(sent_ms: float, stamped_ms: int, acknowledged_ms: float) -> Bounds:
    """The bounds from one record; a timestamp is a whole number of milliseconds, rounded down."""
    return Bounds(sent_ms - (stamped_ms + 1), acknowledged_ms - stamped_ms, acknowledged_ms)


def joined(known: Bounds | None, new: Bounds) -> Bounds:
    """Both measurements together; the new one alone if they contradict each other."""
    if known is None:
        return new
    old = known.widened(new.at_ms)
    low, high = max(old.low, new.low), min(old.high, new.high)
    return Bounds(low, high, new.at_ms) if low <= high else new


def monotonic_ms() -> float:
    return time.monotonic_ns() / 1e6


def wall_ms() -> float:
    return time.time_ns() / 1e6


class BrokerClocks:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        delivery: Delivery,
        *,
        wall_ms: Callable[[], float] = wall_ms,
        monotonic_ms: Callable[[], float] = monotonic_ms,
    ) -> None:
        self._topic = settings.queries_topic
        self._failed = delivery.clock_failed
        self._wall_ms, self._monotonic_ms = wall_ms, monotonic_ms
        self._bounds: dict[int, Bounds] = {}  # by partition
        self._latest: Bounds | None = None  # of any partition
        self._probed_ms: dict[int, float] = {}  # by partition: when a probe measured it
        self._first = threading.Event()
        self._steps = 0
        self._logged = -LOG_S
        # acks=1: the leader's clock does not wait for its followers
        self._producer = delivery.producer(
            "clocks",
            {"acks": 1, "message.timeout.ms": MEASURE_TIMEOUT_MS, "linger.ms": 0},
            {self._topic},
        )

    def ahead_ms(self, number: int) -> int:
        """How far the wall clock is ahead of the clock of a partition's leader; below 0: behind."""
        bounds = self._bounds.get(number) or self._latest
        if bounds is None:
            return 0
        now = self._monotonic_ms()
        set_to = self._wall_ms() - now
        low, high, _ = bounds.widened(now)
        return round(max(set_to + low, min(set_to + high, 0.0)))

    def measure_first(self, partitions: int) -> None:
        """Measure before the first query is read; waits, but not for long."""
        self._measure(range(min(partitions, FIRST_PARTITIONS)))
        self._first.wait(FIRST_TIMEOUT_S)

    def step(self, owned: Iterable[int]) -> None:
        """Measure the partitions whose turn it is, export the offsets, and log a wrong clock."""
        numbers = set(owned)
        for number in self._bounds.keys() - numbers:
            del self._bounds[number]
            self._probed_ms.pop(number, None)
        turn = self._steps % MEASURE_EVERY_S
        self._steps += 1
        self._measure(
            number
            for number in numbers
            if number not in self._bounds
            or (number % MEASURE_EVERY_S == turn and not self._is_probed(number))
        )
        worst, worst_ms = -1, 0
        for number in numbers:
            ahead = self.ahead_ms(number)
            metrics.CLOCK_OFFSET.labels(str(number)).set(ahead / 1000)
            if abs(ahead) > abs(worst_ms):
                worst, worst_ms = number, ahead
        if abs(worst_ms) > WRONG_MS and time.monotonic() - self._logged > LOG_S:
            self._logged = time.monotonic()
            log.warning(
                "clock_offset topic=%s partition=%d ahead_ms=%d: this machine's clock and the "
                "clock of the partition's leader differ by that. The worker judges deadlines by "
                "the leader's clock, so queries are answered. Set the clock that is wrong "
                "(ReadStatesClockOffset.md says how to find out which)",
                self._topic,
                worst,
                worst_ms,
            )

    def note_probe(
        self, number: int, sent_ms: float, stamped_ms: int, acknowledged_ms: float
    ) -> None:
        """Take the measurement that a probe is; any thread may call this. The first and last time
        are by the monotonic clock, the other by the leader's.
        """
        self._note(number, measured(sent_ms, stamped_ms, acknowledged_ms))
        self._probed_ms[number] = acknowledged_ms

    def _is_probed(self, number: int) -> bool:
        """True if a probe has measured the partition within MEASURE_EVERY_S."""
        at_ms = self._probed_ms.get(number)
        return at_ms is not None and self._monotonic_ms() - at_ms < 1000 * MEASURE_EVERY_S

    def _note(self, number: int, new: Bounds) -> None:
        self._bounds[number] = joined(self._bounds.get(number), new)
        self._latest = self._bounds[number]
        self._first.set()

    def _measure(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            done = partial(self._delivered, number, self._monotonic_ms())
            try:
                self._producer.now.produce(
                    self._topic, partition=number, headers=[(HEADER_CLOCK, b"")], on_delivery=done
                )
            except BufferError as exc:
                self._failed(self._topic, number, exc)
            except KafkaException as exc:
                self._note_failure(number, exc.args[0])

    def _delivered(
        self, number: int, sent_ms: float, error: KafkaError | None, message: Message
    ) -> None:
        """Take a measurement, in the thread that polls the producers."""
        if error is not None:
            self._note_failure(number, error)
            return
        self._note(number, measured(sent_ms, message.timestamp()[1], self._monotonic_ms()))

    def _note_failure(self, number: int, error: KafkaError) -> None:
        self._producer.note_failure(error, self._topic, number)
        self._failed(self._topic, number, error)
