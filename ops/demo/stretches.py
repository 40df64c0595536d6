"""The stretches of the demo: a warm-up, then steady traffic, a burst, and a storm of mentions.

1. `fill` gives every user read states: more than the tables hold. The absent users come first, so
   they are the first to be evicted.
2. `make_resident` loads some users; `trial` finds a rate that leaves the machine a third to spare.
3. `steady`, `burst` and `storm` each send their kind of updates, send queries at the same time, and
   return what was seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import click

from readstates.schemas.partitioner import partition_of
from readstates.streams.client import BlockingClient, QueryError
from readstates.streams.config import Settings

from ..bench.asking import Asked
from ..local.worker import WorkerProcess
from ..proof.sender import CROWDS, FILL, USUAL, Sender
from ..proof.traffic import Traffic
from .asking import ABSENT, ECHO, RESIDENT, SELECT, InTurn, Questions
from .machine import Busy, Machine
from .progress import Progress
from .proof import log_ends, wait_durable

KINDS = (RESIDENT, ECHO, ABSENT, SELECT)
BUSY_MAX = 2 / 3  # of the machine, in the steady stretch
BUSY_AIM = 0.6  # the share aimed at; lower, because the load of a machine varies
TRIAL_RATE, RATE_MIN = 2_000, 300  # updates per second
TRIALS_MAX = 3  # a slower rate each time
TRIAL_STEP = 0.8  # of the rate to choose if the cost were in proportion to it
TRIAL_S = 4.0  # of one trial
TRIAL_SKIP_S = 1.5  # of it, until both servers run at the new rate
RESIDENT_PER_SECOND = 200
STORM_S = 8.0
STORM_MENTIONS = 20_000
BESIDE_S = 1.0  # how long queries go on beside a stretch that has no fixed length
FILL_PER_SECOND = 1_500  # users; each gets some ten rows in a Cassandra that is still cold
APPLIED_TIMEOUT_S = 5.0  # of one query that asks whether an offset is applied
STALL_S = 300.0  # without an answer to that: the demo gives up
PARKED = "read_states_parked_updates"
LOADED = "read_states_cassandra_loads_total{outcome=loaded}"


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    updates: int  # of the burst
    queries: int  # of each kind, per second
    users: int
    steady_s: float
    partitions: int

    @property
    def steady_max(self) -> int:
        """Updates of the steady stretch at most; as many are made ahead."""
        return int(TRIAL_RATE * self.steady_s)

    @property
    def absent(self) -> int:
        """Users who get no updates; each is queried only once or twice."""
        return int(self.queries * (self.steady_s + TRIALS_MAX * TRIAL_S)) + 1


@dataclass
class Seen:
    """What one stretch saw."""

    updates: int
    seconds: float
    asked: Mapping[str, Asked]
    busy: Busy | None
    durable_s: float = 0.0  # from the end of the stretch until all of it was in Cassandra
    counts: Mapping[str, float] = field(default_factory=dict)  # of the worker, in this stretch


@dataclass
class World:
    """What the stretches work with."""

    settings: Settings
    scale: Scale
    worker: WorkerProcess
    sender: Sender
    machine: Machine
    client: BlockingClient
    traffic: Traffic  # as the sender has it
    questions: dict[str, Questions] = field(default_factory=dict)

    def ask(self, seconds: float, *kinds: str) -> InTurn:
        """Ask these kinds in turn."""
        chosen = {kind: self.questions[kind] for kind in kinds}
        return InTurn(chosen, self.scale.queries, seconds)


def make_ahead(sender: Sender, scale: Scale) -> None:
    """Make all records of the timed stretches in advance: making one costs more than sending it."""
    sender.make(USUAL, TRIALS_MAX * int(TRIAL_RATE * TRIAL_S) + scale.steady_max + scale.updates)
    sender.make(CROWDS, STORM_MENTIONS)


def fill(world: World) -> None:
    """Every user gets read states in all of its channels."""
    total = world.scale.users + world.scale.absent
    world.sender.send(FILL, total, total / FILL_PER_SECOND)
    with Progress() as progress:
        wait_applied(world, progress, lambda: f"warming up: {total:,} users get read states")


def make_resident(world: World, progress: Progress) -> Asked:
    """Ask for each of the residents once, so that all of them are in the table."""
    residents = world.questions[RESIDENT]
    count = len(residents.queries)
    asking = InTurn({RESIDENT: residents}, RESIDENT_PER_SECOND, count / RESIDENT_PER_SECOND)
    return asking.finish(lambda: progress(f"asking once for each of {count:,} users"))[RESIDENT]


def wait_applied(world: World, progress: Progress, text: Callable[[], str]) -> None:
    """Until everything sent so far is acknowledged and applied.

    A query with `after_offset` is answered when its partition has come that far.
    """
    while not world.sender.wait(0.1):
        progress(text())
    ends = log_ends(world.settings, world.scale.partitions)
    someone = {partition_of(b"%d" % user, len(ends)): user for user in world.traffic.user_ids}
    for number, end in ends.items():
        if end and number in someone:
            _wait_applied(world, someone[number], end - 1, lambda: progress(text()))


def _wait_applied(world: World, user_id: int, offset: int, watched: Callable[[], None]) -> None:
    until = time.monotonic() + STALL_S
    while True:
        watched()
        try:
            world.client.get(user_id, [], after_offset=offset, deadline_s=APPLIED_TIMEOUT_S)
        except (TimeoutError, QueryError) as exc:
            if world.worker.returncode is not None or time.monotonic() > until:
                raise click.ClickException(
                    f"the worker makes no progress: {exc}\n{world.worker.output()[-2000:]}"
                ) from exc
        else:
            return


def trial(world: World) -> int:
    """Try the usual traffic at falling rates; returns the first that leaves enough to spare.

    Its cost is not in proportion to it: queries and the servers' own work cost the same.
    """
    rate = TRIAL_RATE
    for _ in range(TRIALS_MAX):
        busy = _busy_at(world, rate)
        if busy is None:
            return TRIAL_RATE // 2
        if busy.share <= BUSY_AIM:
            break
        rate = max(RATE_MIN, int(rate * TRIAL_STEP * min(1.0, BUSY_AIM / busy.share)) // 100 * 100)
    return rate


def _busy_at(world: World, rate: int) -> Busy | None:
    world.sender.send(USUAL, int(rate * TRIAL_S), TRIAL_S)
    asking = world.ask(TRIAL_S, *KINDS)
    with Progress() as progress:
        begin = time.monotonic()
        while time.monotonic() - begin < TRIAL_SKIP_S:
            time.sleep(0.1)
        world.machine.begin()
        while time.monotonic() - begin < TRIAL_S:
            time.sleep(0.1)
            progress(f"warming up: {rate:,} updates per second, to see how busy the machine gets")
        busy = world.machine.busy()
        asking.finish()
        world.sender.wait()
    return busy


def steady(world: World, rate: int) -> Seen:
    """Updates at `rate`, and all kinds of queries in turn."""
    seconds = world.scale.steady_s
    count = int(rate * seconds)
    before = world.worker.metrics()
    world.machine.begin()
    begin = time.monotonic()
    world.sender.send(USUAL, count, seconds)
    with Progress() as progress:

        def text() -> str:
            return f"steady: {world.sender.sent:,} updates sent so far"

        asked = world.ask(seconds, *KINDS).finish(lambda: progress(text()))
        busy = world.machine.busy()
        wait_applied(world, progress, text)
        took_s = time.monotonic() - begin
    return Seen(count, took_s, asked, busy, counts=since(before, world.worker.metrics()))


def burst(world: World) -> Seen:
    """Updates as fast as they go; over when the last one is applied."""
    count = world.scale.updates
    before = world.worker.metrics()
    world.machine.begin()
    begin, sent_before = time.monotonic(), world.sender.sent
    world.sender.send(USUAL, count, None)
    with Progress() as progress, Beside(world, RESIDENT, ECHO) as beside:

        def text() -> str:
            return f"burst: {world.sender.sent - sent_before:,} of {count:,} updates sent"

        wait_applied(world, progress, text)
        took_s = time.monotonic() - begin
    busy = world.machine.busy()
    counts = since(before, world.worker.metrics())
    end = time.monotonic()
    with Progress() as progress:
        wait_durable(world.settings, log_ends(world.settings, world.scale.partitions), progress)
    return Seen(count, took_s, beside.asked, busy, time.monotonic() - end, counts)


def storm(world: World) -> Seen:
    """Messages that mention crowds; over when every mentioned user was loaded."""
    with Progress() as progress:
        make_resident(world, progress)  # again: the burst may have evicted some
    before = world.worker.metrics()
    world.machine.begin()
    begin = time.monotonic()
    world.sender.send(CROWDS, STORM_MENTIONS, STORM_S)
    with Progress() as progress:

        def text() -> str:
            return "storm: messages mention crowds of users"

        asked = world.ask(STORM_S, RESIDENT, ECHO).finish(lambda: progress(text()))
        busy = world.machine.busy()
        wait_applied(world, progress, text)
        while world.worker.metrics().get(PARKED, 0) and world.worker.returncode is None:
            time.sleep(0.2)
            progress(text())
        took_s = time.monotonic() - begin
    counts = since(before, world.worker.metrics())
    return Seen(STORM_MENTIONS, took_s, asked, busy, counts=counts)


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What the worker's counters grew by."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


class Beside(threading.Thread):
    """Asks kinds in turn for as long as the block takes."""

    def __init__(self, world: World, *kinds: str) -> None:
        super().__init__(daemon=True)
        self._world, self._kinds = world, kinds
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self.asked: dict[str, Asked] = {kind: Asked() for kind in kinds}

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                for kind, seen in self._world.ask(BESIDE_S, *self._kinds).finish().items():
                    whole = self.asked[kind]
                    whole.seconds += seen.seconds
                    whole.bodies += seen.bodies
                    whole.unanswered += seen.unanswered
        except BaseException as exc:  # noqa: BLE001 - raised at the block's end
            self._failure = exc

    def __enter__(self) -> Beside:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self._ended.set()
        if kind is None:
            self.join()
            if self._failure is not None:
                raise self._failure
