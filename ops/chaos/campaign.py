"""The campaign: load on, faults one after another, load off, the proof."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings

from ..local.errors import StackError
from ..proof.traffic import Traffic
from . import kafka, proof
from .faults import Unexpected, refuses
from .history import ZOMBIE, Excuse, Judged, Window, judge
from .load import REPLY_TOPIC, Lag, Queries, Updates
from .mirrors import in_windows
from .proof import Differences
from .schedule import NAMES, Kind, schedule
from .world import PARTITIONS, SERVERS, WORKERS, NotHealthyError, World

USERS = 6_000
WARM_UP_S = 15.0  # servers that just started are slow; its queries may expire, as in a fault
COOL_DOWN_S = 5.0
BETWEEN_S = (0.5, 2.5)
DRAIN_TIMEOUT_S = 180.0
WARM_UP = "warm-up"
LOG_CUT = "log cut off"
LOST_RECORDS = 200


@dataclass
class Fault:
    """One line of the timeline; seconds of the campaign's clock."""

    kind: str
    begin_s: float
    end_s: float = 0.0
    well_s: float = 0.0
    what: str = ""
    excuse: Excuse = Excuse.UNTIL_WELL

    @property
    def windows(self) -> list[Window]:
        """When queries may go unanswered because of it."""
        if self.excuse is Excuse.NEVER:
            return []
        end_s = self.end_s if self.excuse is Excuse.UNTIL_UNDONE else self.well_s
        return [Window(self.kind, self.begin_s, end_s)]


@dataclass
class Result:
    """All that is known at the end."""

    seed: int
    begin_s: float
    timeline: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    workers_crashed: list[str] = field(default_factory=list)
    workers_refused: list[str] = field(default_factory=list)
    updates: int = 0
    updates_failed: int = 0
    duplicates: int = 0
    missing: int = 0
    bad: int = 0
    dead_letters: int = 0
    dead_letters_wrong: list[str] = field(default_factory=list)
    replies_checked: int = 0
    replies_wrong: list[str] = field(default_factory=list)
    changes_told: int = 0
    changes_late: int = 0
    mirrors_compared: int = 0
    mirrors_wrong: list[str] = field(default_factory=list)
    differences: Differences = field(default_factory=Differences)
    queries: Judged | None = None
    latencies: list[tuple[float, float]] = field(default_factory=list)  # sent, seconds it took
    lag: list[tuple[float, int]] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not (
            self.problems
            or self.workers_crashed
            or self.missing
            or self.dead_letters_wrong
            or self.replies_wrong
            or self.mirrors_wrong
            or not self.changes_told
            or self.differences.total
        ) and (self.queries is not None and self.queries.right and self.differences.compared > 0)


class Campaign:
    """See the module. `kinds`: names of the kinds of faults that it draws from."""

    def __init__(
        self,
        world: World,
        seed: int,
        say: Callable[[str], None],
        minutes: float,
        kinds: Sequence[str] = NAMES,
    ) -> None:
        self._world = world
        self._say = say
        self._seed = seed
        self._kinds = kinds
        self._end_s = time.monotonic() + minutes * 60 if minutes else float("inf")
        self._warm_s = float("inf")
        self.result = Result(seed, time.monotonic())

    def run(self, faults: int, updates_per_second: float, queries_per_second: float) -> Result:
        """All of it. The servers must be stopped by the caller."""
        world, result = self._world, self.result
        settings = world.start()
        self._create_reply_topic()
        self._updates = Updates(settings, Traffic(self._seed, USERS), updates_per_second)
        self._queries = Queries(
            settings,
            PARTITIONS,
            self._seed,
            Traffic(self._seed, USERS),
            self._updates,
            queries_per_second,
        )
        lag = Lag(settings, PARTITIONS)
        world.probe, world.lag = lambda: self._queries.last_answer_s, lag.now
        world.renew_client = self._queries.renew_client
        loads = (self._updates, self._queries, lag)
        result.begin_s = time.monotonic()
        for load in loads:
            load.start()
        self._attack(faults - 1)
        world.rest(COOL_DOWN_S)
        for load in loads:
            load.finish()
        self._prove(settings)
        self._cut_the_log(settings)
        result.lag = lag.samples
        result.workers_crashed, result.workers_refused = world.crashed, world.refused
        return result

    def _create_reply_topic(self) -> None:
        topic = NewTopic(REPLY_TOPIC, 1, SERVERS, config={"min.insync.replicas": "2"})
        admin = self._world.connect_admin()
        admin.create_topics([topic])[REPLY_TOPIC].result(30)

    # -- faults -------------------------------------------------------------------------------

    def _attack(self, count: int) -> None:
        rng = random.Random(self._seed)
        world = self._world
        steps = schedule(count, rng, self._kinds)
        with ThreadPoolExecutor(2) as hands:
            try:
                world.rest(WARM_UP_S)
                world.wait_healthy()
                self._warm_s = time.monotonic()
                for step in steps:
                    if time.monotonic() > self._end_s:
                        self._say("time is up: no further faults")
                        return
                    self._step(step, hands, rng)
                    world.rest(rng.uniform(*BETWEEN_S))
            except (NotHealthyError, StackError) as exc:  # no further faults, but the proof
                self.result.problems.append(str(exc))
            except BaseException:
                world.stopping.set()  # the hands let go
                raise

    def _step(self, step: tuple[Kind, ...], hands: ThreadPoolExecutor, rng: random.Random) -> None:
        """The faults of a step, together; then until all is well."""
        draws = [random.Random(rng.random()) for _ in step]
        faults = [Fault(kind.name, time.monotonic(), excuse=kind.excuse) for kind in step]
        self.result.timeline += faults
        threes = zip(step, faults, draws, strict=True)
        try:
            for future in [hands.submit(self._one, *three) for three in threes]:
                future.result()
            self._world.wait_healthy()
        finally:
            for fault in faults:
                fault.well_s = time.monotonic()

    def _one(self, kind: Kind, fault: Fault, rng: random.Random) -> None:
        self._world.rest(rng.uniform(0, 1))
        fault.begin_s = time.monotonic()
        try:
            fault.what = kind.act(self._world, rng)
        except (Unexpected, KafkaException, TimeoutError) as exc:
            fault.what = f"UNEXPECTED: {(str(exc) or repr(exc)).splitlines()[0]}"
            self.result.problems.append(f"{kind.name}: {exc!r}")
        finally:
            fault.end_s = time.monotonic()
        self._tell(fault)

    def _tell(self, fault: Fault) -> None:
        updates, queries = self._updates.sent, len(self._queries.asked)
        self._say(
            f"{fault.begin_s - self.result.begin_s:7.1f} s  {fault.kind:<20}{fault.what}"
            f"  · {updates:,} updates, {queries:,} queries"
        )

    # -- the proof ----------------------------------------------------------------------------

    def _prove(self, settings: Settings) -> None:
        result, updates, queries = self.result, self._updates, self._queries
        try:
            took_s = kafka.wait_durable(settings, PARTITIONS, DRAIN_TIMEOUT_S)
            self._say(f"load off; all of it durable after {took_s:.1f} s; folding the log")
        except kafka.NotDurableError as exc:
            result.problems.append(str(exc))
        told = kafka.changes(settings, PARTITIONS, self._zombies())
        folded = proof.fold(kafka.log_records(settings, PARTITIONS), queries.asked, told)
        result.updates, result.updates_failed = updates.sent, updates.failed
        result.duplicates = sum(n - 1 for number, n in folded.numbers.items() if number >= 0)
        result.missing = len(proof.missing(folded.numbers, updates.acknowledged, updates.sent))
        result.bad = len(folded.bad)
        result.replies_checked = folded.replies_checked
        result.replies_wrong = folded.replies_wrong
        mirrors = folded.mirrors
        result.changes_told, result.changes_late = mirrors.told, mirrors.late
        result.mirrors_compared, result.mirrors_wrong = mirrors.compared, mirrors.wrong
        letters = kafka.dead_letters(settings, PARTITIONS)
        result.dead_letters, result.dead_letters_wrong = proof.dead_letters(folded.bad, letters)
        store = Store(settings)
        try:
            result.differences = proof.compare(folded.oracle, store.read_all())
        finally:
            store.close()
        windows = [Window(WARM_UP, result.begin_s, self._warm_s)]
        windows += [window for fault in result.timeline for window in fault.windows]
        result.queries = judge(queries.asked, windows, self._world.gone)
        if queries.strangers:
            result.problems.append(f"{queries.strangers} replies to queries that nobody asked")
        result.latencies = [
            (q.sent_s, q.answered_s - q.sent_s)
            for q in queries.asked
            if q.answered_s is not None and not q.error
        ]

    def _zombies(self) -> Callable[[float], bool]:
        """Whether an owner may not have known at a time (since the epoch) that it was none."""
        ahead_s = time.time() - time.monotonic()
        return in_windows(
            (fault.begin_s + ahead_s, fault.well_s + ahead_s)
            for fault in self.result.timeline
            if fault.kind == ZOMBIE
        )

    # -- the last fault -----------------------------------------------------------------------

    def _cut_the_log(self, settings: Settings) -> None:
        """Kafka loses what is not yet durable: the worker must refuse, and say what to do."""
        fault = Fault(LOG_CUT, time.monotonic())
        self.result.timeline.append(fault)
        world, topic = self._world, settings.updates_topic
        try:
            for name in WORKERS:
                status = world.workers[name].stop()
                if status != 0:
                    raise Unexpected(f"{name} ended with {status} on SIGTERM")
            place = kafka.append(settings, topic, LOST_RECORDS)
            admin = world.connect_admin()
            admin.delete_records([place])[place].result(kafka.TIMEOUT_S)
            worker = world.start_worker(WORKERS[0])
            refuses(world, WORKERS[0], worker, "are gone and were not written to Cassandra")
            fault.what = f"{WORKERS[0]} refused to start, saying what to do"
        except Unexpected as exc:
            fault.what = f"UNEXPECTED: {str(exc).splitlines()[0]}"
            self.result.problems.append(f"{LOG_CUT}: {exc}")
        fault.end_s = fault.well_s = time.monotonic()
        self._tell(fault)
