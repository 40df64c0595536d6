"""Changes: what the change feed costs an update, and how soon a change is told.

    make bench BENCHES=changes

Four workers, each with topics and a keyspace of its own: one without the feed, and three with
CHANGES_DELAY_MS 0, 20 and 200. They take turns in each round; the others have nothing to do then.

- Steady: 1,000 updates per second of the demo's traffic, plain acks and mentions. The CPU time of
  the worker's process per update, compared with the worker without the feed.
- Backlog: the worker is stopped (SIGSTOP) while a backlog is made, and continues. Timed until all
  of it is committed, so in Cassandra and, with the feed, acknowledged there; FLUSH_DELAY_S is 1.
- Delay: 1,000 plain acks per second. From the Kafka timestamp of an ack to the moment when a
  consumer has the record that tells of it. A bare echo answers each ack that it gets with as many
  bytes; there, too, the time counts from the Kafka timestamp of the ack.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import click
from confluent_kafka import Consumer, Message, TopicPartition

from readstates.schemas.changes import decode_change
from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_REPLY_TOPIC, headers_of
from readstates.schemas.version import offset_of
from readstates.streams.config import Settings

from ..local.worker import WorkerProcess
from ..proof.traffic import Record, Traffic
from . import asking, echo
from .asking import quantile
from .backlog import Log, backlog, produce
from .cpu import exact_cpu_s_of
from .open_loop import Updates
from .ordinary import acks
from .suite import Goal, Suite

OFF = "off"
DELAYS_MS = ("0", "20", "200")
MODES = (OFF, *DELAYS_MS)
DEFAULT_MS = "20"
RATE = 1_000
MORE_CPU_MAX_US = 1.5  # per update, with the default delay
WARM_UP_S = 3.0
SETTLE_S = 2.0  # for what is on its way to the consumer at the end
ABOVE_ALL = 2 * 10**18  # a message ID above those of the demo's traffic: no ack is an older one
RECORD_BYTES = 350  # of a change that names one read state
TIMEOUT_S = 300.0
TAKEN_MAX = 500


class Contender:
    """A worker with topics of its own, and its users in its table."""

    def __init__(self, suite: Suite, mode: str) -> None:
        self.mode, self._suite = mode, suite
        more = {"READ_STATES_FLUSH_DELAY_S": "1"}
        if mode != OFF:
            more |= {"READ_STATES_CHANGES": "on", "READ_STATES_CHANGES_DELAY_MS": mode}
        self.settings, env = asking.prepare(suite, f"changes-{mode}", **more)
        self.traffic = Traffic(asking.SEED, asking.USERS)
        self._acks = acks(self.traffic, ABOVE_ALL)
        self.worker = WorkerProcess(env, suite.scratch / f"worker-{mode}.log").start()
        self.worker.wait_ready()
        asking.make_residents(self.settings, self.traffic, self.worker)

    def steady(self, seconds: float, _round: int) -> float:
        """CPU of the worker per update at a steady rate, in microseconds."""
        updates = Updates(self.settings, backlog(self.traffic, 10**9), RATE)
        updates.start()
        time.sleep(WARM_UP_S)
        sent, used_s = updates.sent, exact_cpu_s_of(self.worker.pid)
        time.sleep(seconds)
        used_s = exact_cpu_s_of(self.worker.pid) - used_s
        sent = updates.sent - sent
        updates.finish()
        return used_s / sent * 1e6

    def backlog(self, count: int) -> tuple[float, float]:
        """Updates per second until a backlog is committed, and CPU per update in microseconds."""
        log, records = Log(self.settings, self.settings.kafka_group), backlog(self.traffic, count)
        try:
            os.kill(self.worker.pid, signal.SIGSTOP)
            try:
                produce(self.settings, records)
                ends = log.ends()
            finally:
                begin_s, used_s = time.monotonic(), exact_cpu_s_of(self.worker.pid)
                os.kill(self.worker.pid, signal.SIGCONT)
            self._wait_committed(log, ends)
            took_s = time.monotonic() - begin_s
            return count / took_s, (exact_cpu_s_of(self.worker.pid) - used_s) / count * 1e6
        finally:
            log.close()

    def _wait_committed(self, log: Log, ends: list[int]) -> None:
        end_s = time.monotonic() + TIMEOUT_S
        while log.committed() != ends:
            if self.worker.returncode is not None or time.monotonic() > end_s:
                raise click.ClickException(f"it ended or hung: {self.worker.output()[-2000:]}")
            time.sleep(0.05)

    def delays(self, seconds: float) -> list[float]:
        """Milliseconds from the Kafka timestamp of each ack to the record that tells of it."""
        updates, changes = Arrivals(self.settings), Arrivals(self.settings, "changes")
        _send(self.settings, self._acks, seconds)
        log = Log(self.settings, self.settings.kafka_group)
        try:
            self._wait_committed(log, log.ends())  # what is committed is in the feed
        finally:
            log.close()
        time.sleep(SETTLE_S)
        found = list(told(updates.finish(), changes.finish()))
        return found[len(found) // 10 :]  # the first ones are the warm-up

    def close(self) -> None:
        """End the worker."""
        self.worker.stop()


class Arrivals(threading.Thread):
    """Notes each record of a topic from now on, and when it arrived (`time.time()`)."""

    def __init__(self, settings: Settings, end: str = "updates") -> None:
        super().__init__(daemon=True)
        more = {"group.id": "bench-arrivals", "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer(settings.librdkafka(**more, **{"fetch.wait.max.ms": 100}))
        topic = f"{settings.topic_prefix}.{end}"
        known = self._consumer.list_topics(topic, timeout=asking.TIMEOUT_S).topics[topic]
        places = [TopicPartition(topic, number) for number in known.partitions]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=30)[1]
        self._consumer.assign(places)
        self._found: list[tuple[float, Message]] = []
        self._finished = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._finished.is_set():
            first = self._consumer.poll(0.1)
            if first is None:
                continue
            now_s = time.time()
            for message in (first, *self._consumer.consume(TAKEN_MAX, 0)):
                if message.error() is None:
                    self._found.append((now_s, message))
        self._consumer.close()

    def finish(self) -> list[tuple[float, Message]]:
        """Stop, and return what came."""
        self._finished.set()
        self.join()
        return self._found


def told(
    updates: Sequence[tuple[float, Message]], changes: Sequence[tuple[float, Message]]
) -> Iterator[float]:
    """Milliseconds from each update's timestamp to the first record that tells of it.

    A record tells of all of its user's updates below its version.
    """
    waiting: dict[Any, list[tuple[int, int]]] = defaultdict(list)  # by user: offset, timestamp
    for _, message in updates:
        waiting[message.key()].append((message.offset() or 0, message.timestamp()[1]))
    for arrived_s, message in changes:
        position = offset_of(decode_change(message.value()).version)
        left = waiting[message.key()]
        while left and left[0][0] <= position:
            yield arrived_s * 1e3 - left.pop(0)[1]
    untold = sum(map(len, waiting.values()))
    if untold:
        raise click.ClickException(f"{untold} updates were not told of")


def _send(settings: Settings, records: Iterator[Record], seconds: float, topic: str = "") -> None:
    updates = Updates(settings, records, RATE, topic)
    updates.start()
    time.sleep(seconds)
    updates.finish()


def _echoed(settings: Settings, traffic: Traffic, seconds: float) -> list[float]:
    """As `Contender.delays`, for a bare echo of the same rate and size."""
    headers = [(HEADER_REPLY_TOPIC, f"{settings.topic_prefix}.echoed".encode())]
    asked = (
        record._replace(headers=[*headers, (HEADER_CORRELATION_ID, b"%d" % number)])
        for number, record in enumerate(acks(traffic))
    )
    asks, answers = Arrivals(settings, "echo"), Arrivals(settings, "echoed")
    _send(settings, asked, seconds, f"{settings.topic_prefix}.echo")
    time.sleep(SETTLE_S)
    sent_ms = {_number(message): message.timestamp()[1] for _, message in asks.finish()}
    found = [arrived_s * 1e3 - sent_ms[_number(m)] for arrived_s, m in answers.finish()]
    return found[len(found) // 10 :]


def _number(message: Message) -> Any:
    return dict(headers_of(message))[HEADER_CORRELATION_ID]


def run(suite: Suite) -> None:
    """Run the three measurements; the workers take turns in each."""
    contenders = {mode: Contender(suite, mode) for mode in MODES}
    try:
        _steady(suite, contenders)
        _backlog(suite, contenders)
        _delays(suite, contenders)
    finally:
        for contender in contenders.values():
            contender.close()
    suite.leave_out(
        "a build that has no feed: without CHANGES, a run of updates asks once whether there is one"
    )


def _steady(suite: Suite, contenders: dict[str, Contender]) -> None:
    seconds = 5.0 if suite.quick else 20.0
    cpu_us = suite.in_turn({mode: partial(one.steady, seconds) for mode, one in contenders.items()})
    suite.measured["steady_cpu_us"] = cpu_us
    for mode in DELAYS_MS:
        more = [on - off for on, off in zip(cpu_us[mode], cpu_us[OFF], strict=True)]
        what = f"{RATE:,} updates/s, delay {mode} ms, more CPU per update than without the feed"
        goal = Goal(at_most=MORE_CPU_MAX_US) if mode == DEFAULT_MS else Goal()
        suite.bound(what, more, "µs", goal)


def _backlog(suite: Suite, contenders: dict[str, Contender]) -> None:
    count = 50_000 if suite.quick else 400_000
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}

    def measure(mode: str, _round: int) -> float:
        found[mode].append(contenders[mode].backlog(count))
        return found[mode][-1][0]

    suite.in_turn({mode: partial(measure, mode) for mode in MODES})
    suite.measured["backlog"] = found
    rates, cpu_us = (
        {mode: [pair[part] for pair in pairs] for mode, pairs in found.items()} for part in (0, 1)
    )
    for mode in DELAYS_MS:
        what = f"backlog to the last commit, delay {mode} ms"
        suite.line(what, rates[mode], "without the feed", rates[OFF], "updates/s")
        more = [on - off for on, off in zip(cpu_us[mode], cpu_us[OFF], strict=True)]
        suite.bound(f"{what}, more CPU per update", more, "µs", Goal())


def _delays(suite: Suite, contenders: dict[str, Contender]) -> None:
    seconds = 4.0 if suite.quick else 12.0
    first = contenders[OFF]
    echoed = asking.make_topic(first.settings, "changes-off.echo", asking.PARTITIONS)
    asking.make_topic(first.settings, "changes-off.echoed")
    found: dict[str, list[list[float]]] = defaultdict(list)
    with echo.beside(first.settings, echoed, RECORD_BYTES):
        for number, mode in itertools.product(range(suite.rounds), ("echo", *DELAYS_MS)):
            if mode == "echo":
                took = _echoed(first.settings, first.traffic, seconds)
            else:
                took = contenders[mode].delays(seconds)
            found[mode].append(took)
            p50, p99 = quantile(took, 0.5), quantile(took, 0.99)
            suite.say(f"  round {number + 1}  {mode:<5} p50 {p50:.1f} ms · p99 {p99:.1f} ms")
    for mode, share in itertools.product(DELAYS_MS, (0.5, 0.99)):
        ours, theirs = ([quantile(took, share) for took in found[n]] for n in (mode, "echo"))
        what = f"{RATE:,} acks/s, delay {mode} ms, until a consumer has the change"
        suite.line(f"{what}, p{share * 100:g}", ours, "bare echo", theirs, "ms")
