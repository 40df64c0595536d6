"""Handover: for how long nobody answers when a worker leaves, joins, restarts or is killed.

Three workers, 5,000 updates a second of 20,000 users, changes kept back for FLUSH_DELAY_S of 30 s,
so that a handover has much to write out. All the time 300 queries a second of all users, open
loop. For each query: when was the first good answer to it or to a later query of the same
partition? That is what a client waits that asks again and again; the longest such wait after an
event is its figure.

After `kill -9` Kafka notices after the session timeout, and the next owner replays what was not
committed (the longest time that a worker said "catching up"): both are allowed, and 3 s more.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic
from readstates.ops.bench.suite import Goal, Suite
from readstates.ops.chaos.history import Asked
from readstates.ops.chaos.load import REPLY_TOPIC, Queries, Updates
from readstates.ops.demo.traffic import Traffic
from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.streams import topics
from readstates.streams.cassandra import Store
from readstates.streams.config import Settings

PARTITIONS = 12
USERS = 20_000
UPDATES_PER_S = 5_000.0
QUERIES_PER_S = 300.0
FLUSH_DELAY_S = 30.0
SESSION_TIMEOUT_S = 10.0
WARM_UP_S = 45.0  # longer than FLUSH_DELAY_S: the dirty users are as many as they will be
AFTER_S = 15.0  # an event's window goes on for so long when all are ready
READY_TIMEOUT_S = 60.0
WORST_S = 3.0


@dataclass
class Event:
    """One thing done to a worker. Seconds of the run's clock."""

    what: str
    at_s: float
    end_s: float = 0.0
    unanswered_s: float = 0.0
    replay_s: float = 0.0
    allowed_s: float = WORST_S


@dataclass
class Watch:
    """Asks each worker twenty times a second whether it catches up."""

    workers: dict[str, WorkerProcess]
    spans: list[tuple[float, float]] = field(default_factory=list)  # begin, end of catching up

    def __post_init__(self) -> None:
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        since: dict[str, float] = {}
        while not self._finished.wait(0.05):
            for name, worker in list(self.workers.items()):
                late = "catching up" in worker.get("/readyz")[1]
                if late:
                    since.setdefault(name, time.monotonic())
                elif name in since:
                    self.spans.append((since.pop(name), time.monotonic()))

    def finish(self) -> None:
        self._finished.set()
        self._thread.join()

    def longest_s(self, begin_s: float, end_s: float) -> float:
        inside = [end - begin for begin, end in self.spans if begin_s <= begin <= end_s]
        return max(inside, default=0.0)


class Run:
    """Servers, three workers, load; `act` does something and waits until all is well."""

    def __init__(self, suite: Suite, name: str, env: dict[str, str], *, static: bool) -> None:
        self.suite, self.static = suite, static
        self.env = {
            **env,
            "READ_STATES_TOPIC_PREFIX": f"handover-{name}",
            "READ_STATES_KAFKA_GROUP": f"handover-{name}",
            "READ_STATES_CASSANDRA_KEYSPACE": f"handover_{name}",
            "READ_STATES_REPLY_TOPICS": ".*",
            "READ_STATES_FLUSH_DELAY_S": str(FLUSH_DELAY_S),
            "READ_STATES_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
            "READ_STATES_CACHE_DIR": str(suite.scratch / f"tables-{name}"),
        }
        self.settings = Settings.load(self.env)
        self.folder = suite.scratch / f"log-{name}"
        self.workers: dict[str, WorkerProcess] = {}
        self.events: list[Event] = []
        topics.create(self.settings, PARTITIONS, 1)
        store = Store(self.settings)
        store.create_schema()
        store.close()

    def start(self) -> None:
        for number in (1, 2, 3):
            self.start_worker(f"worker-{number}")
        self._wait_ready()
        traffic = Traffic(1, USERS)
        self.updates = Updates(self.settings, traffic, UPDATES_PER_S)
        self.queries = Queries(
            self.settings, PARTITIONS, 1, Traffic(1, USERS), self.updates, QUERIES_PER_S
        )
        self.watch = Watch(self.workers)
        self.updates.start()
        self.queries.start()
        time.sleep(WARM_UP_S)

    def start_worker(self, name: str) -> None:
        env = {**self.env, "READ_STATES_INSTANCE_ID": name if self.static else ""}
        self.workers[name] = WorkerProcess(env, self.folder / f"{name}.log").start()

    def stop_worker(self, name: str) -> None:
        worker = self.workers.pop(name)
        assert worker.stop() == 0, worker.log

    def kill_worker(self, name: str) -> None:
        self.workers.pop(name).kill()

    def act(self, what: str, *steps: tuple[Any, ...], killed: bool = False) -> None:
        event = Event(what, time.monotonic())
        for step, *arguments in steps:
            step(*arguments)
        self._wait_ready()
        time.sleep(AFTER_S)
        event.end_s = time.monotonic()
        if killed:
            event.replay_s = self.watch.longest_s(event.at_s, event.end_s)
            event.allowed_s += SESSION_TIMEOUT_S + event.replay_s
        self.events.append(event)
        longest = longest_wait(self.queries.asked, event.at_s, event.end_s - AFTER_S / 2)
        event.unanswered_s = longest
        self.suite.say(f"  {what:<44} unanswered for {longest:5.2f} s at the longest")

    def _wait_ready(self) -> None:
        """All live workers ready, and every partition owned."""
        end = time.monotonic() + READY_TIMEOUT_S
        while True:
            states = [worker.get("/readyz") for worker in list(self.workers.values())]
            owned = sum(int(b.removeprefix("ok: ").split()[0]) for s, b in states if s == 200)
            if owned == PARTITIONS and all(status == 200 for status, _ in states):
                return
            if time.monotonic() > end:
                raise TimeoutError(f"not ready after {READY_TIMEOUT_S} s: {states}")
            time.sleep(0.1)

    def finish(self) -> None:
        """Load off, workers down."""
        for load in (self.updates, self.queries):
            load.finish()
        self.watch.finish()
        for worker in self.workers.values():
            worker.stop()


def longest_wait(asked: list[Asked], begin_s: float, end_s: float) -> float:
    """Over the queries sent between: until the first good answer to it or a later one, seconds."""
    longest = 0.0
    for partition in range(PARTITIONS):
        first = time.monotonic()  # nothing came: until now
        for query in reversed([q for q in list(asked) if q.partition == partition]):
            if query.answered_s is not None and query.error is None:
                first = min(first, query.answered_s)
            if begin_s <= query.sent_s <= end_s:
                longest = max(longest, first - query.sent_s)
    return longest


def run(suite: Suite) -> None:
    """Members without and with a static identity, each event several times."""
    stack = Stack(suite.scratch / "stack")
    events: list[Event] = []
    try:
        stack.up(progress=suite.say)
        env = stack.env()
        admin = AdminClient(Settings.load(env).librdkafka(log_level=2))
        admin.create_topics([NewTopic(REPLY_TOPIC, 1, 1)])[REPLY_TOPIC].result(30)
        for static in (False, True):
            one = Run(suite, "static" if static else "plain", env, static=static)
            try:
                one.start()
                for _ in range(1 if suite.quick else 3):
                    _attack(one)
            finally:
                one.finish()
            events += one.events
            suite.measured["static" if static else "plain"] = {
                "events": [asdict(event) for event in one.events],
                "updates_sent": one.updates.sent,
                "queries": [
                    (round(q.sent_s, 3), q.partition, q.answered_s and round(q.answered_s, 3))
                    for q in one.queries.asked
                ],
            }
    finally:
        stack.down(remove=True)
    _judge(suite, events)


def _attack(one: Run) -> None:
    name = "worker-3"
    stop, kill, start = (one.stop_worker, name), (one.kill_worker, name), (one.start_worker, name)
    if one.static:
        one.act("static member: SIGTERM, started at once", stop, start)
        one.act("static member: kill -9, started at once", kill, start, killed=True)
    else:
        one.act("one of three leaves (SIGTERM)", stop)
        one.act("a third joins", start)
        one.act("one of three is killed (kill -9)", kill, killed=True)
        one.act("a third joins after the kill", start)


def _judge(suite: Suite, events: list[Event]) -> None:
    kinds = list(dict.fromkeys(event.what for event in events))
    for kind in kinds:
        these = [event for event in events if event.what == kind]
        worst = max(these, key=lambda event: event.unanswered_s - event.allowed_s)
        goal = Goal(at_most=round(worst.allowed_s, 1))
        suite.bound(f"{kind}, worst of {len(these)}", [worst.unanswered_s], "s", goal)
