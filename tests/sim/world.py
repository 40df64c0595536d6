"""One run of a plan: workers, log, database, group, faults, and then the end."""

from __future__ import annotations

import itertools
import logging
import random
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from readstates.cache import fsck, layout, tablefile
from readstates.schemas.partitioner import partition_of
from readstates.streams.kafka.group_consumer import TopicPartition

from .checks import Checks, Violation
from .database import Database
from .feed import Feed
from .group import Group
from .kafka import Log
from .live import Live
from .loop import Clock
from .plan import PARTITIONS, TRAFFIC_S, WORKERS_MAX, Plan
from .traffic import Traffic
from .worker import Worker

FAULTS_UNTIL_S = TRAFFIC_S + 1.0
DRAINED_WITHIN_S = 60.0
SESSION_S = 0.5
RESTART_S = 0.2
PAGE_BYTES = 4096
TRACE_LINES = 400
INSTANCES = [f"i{number}" for number in range(2 * WORKERS_MAX)]


@lru_cache(maxsize=4096)
def _partition(user_id: int) -> int:
    return partition_of(b"%d" % user_id, PARTITIONS)


class World:
    """See the module. Methods named in `plan.Fault.kind` are the faults."""

    partitions = PARTITIONS

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.noise = random.Random(plan.seed + 1)
        self.clock = Clock()
        self.database = Database()
        self.checks = Checks(self)
        self.feed = Feed(self)
        self.group = Group(self)
        topics = (plan.settings.updates_topic, plan.settings.queries_topic)
        self.logs = {
            TopicPartition(topic, number): Log() for topic in topics for number in range(PARTITIONS)
        }
        self.traffic = Traffic(self)
        self.first_offsets = [self.traffic.earlier_epoch(number) for number in range(PARTITIONS)]
        self.live = Live(self)
        self.workers: list[Worker] = []
        self.failure: BaseException | None = None
        self.faulty = True
        self.ending = False
        self.down = self.feed_is_down = False
        self.read_only_until = 0.0
        self.quiet_since_s = [0.0] * PARTITIONS
        self.boot = b"boot 0".ljust(layout.BOOT_ID_BYTES)
        self.trace: deque[tuple[float, str]] = deque(maxlen=TRACE_LINES)
        self._names = itertools.count()
        self._table = "kept"  # what becomes of the tables of who dies next

    # -- what everybody uses ------------------------------------------------------------------

    def now_ms(self) -> int:
        return self.plan.wall_ms + int(self.clock.now * 1000)

    def delay(self) -> float:
        """A delay of the network: mostly short."""
        dice = self.noise.random()
        slow = self.plan.slow_s if dice < 0.1 else 0.004
        return dice * slow * 10 if dice < 0.1 else dice * slow

    def chance(self, share: float) -> bool:
        return self.faulty and self.noise.random() < share

    @staticmethod
    def partition_of(user_id: int) -> int:
        return _partition(user_id)

    def note(self, text: str) -> None:
        self.trace.append((self.clock.now, text))

    def fail(self, text: str, exc: BaseException | None = None) -> None:
        if self.failure is None:
            self.failure = exc if isinstance(exc, Violation) else Violation(text)
            if exc is not self.failure:
                self.failure.__cause__ = exc

    def disturbed(self, numbers: Iterable[int], for_s: float = 0.0) -> None:
        """From now until `for_s` from now it is nobody's fault that a query has no answer.

        Only those of these partitions: whatever happens to one, the others go on.
        """
        for number in numbers:
            quiet = self.clock.now + for_s + 2.5
            self.quiet_since_s[number] = max(self.quiet_since_s[number], quiet)

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        for _ in range(1 + self.plan.seed % WORKERS_MAX):
            self.start_worker()
        for send in self.plan.sends:
            self.clock.push(send.at_s, None, lambda send=send: self.traffic.send(send))
        for fault in self.plan.faults:
            self.clock.push(fault.at_s, None, lambda fault=fault: self._fault(fault))
        self._until(FAULTS_UNTIL_S)
        self._heal()
        end = self.clock.now + DRAINED_WITHIN_S
        while not self._drained():
            if self.clock.now > end:
                raise Violation(f"stuck: {self._state()}")
            self._until(self.clock.now + 0.1)
        self._until(self.clock.now + 1.0)
        self.ending = True
        for worker in list(self.workers):
            worker.stop()
        while self.workers:
            if self.clock.now > end + 10:
                raise Violation("a worker does not stop")
            self._until(self.clock.now + 0.1)
        self.checks.final()
        if self.plan.settings.tells_changes:
            self.feed.final()
        for path in sorted(self.folder.glob("*.table")):
            problems = fsck.check(path)
            if problems:
                raise Violation(f"{path.name}: {problems}")

    def _until(self, when: float) -> None:
        mark = [False]
        self.clock.push(when, None, lambda: mark.__setitem__(0, True))
        step = self.clock.step
        while not mark[0]:
            step()
            if self.failure is not None:
                raise self.failure

    def _heal(self) -> None:
        self.faulty = self.down = self.feed_is_down = False
        self.read_only_until = 0.0
        self.note("faults are over")
        for worker in self.workers:
            worker.loop.frozen_until = worker.member.cut_until = 0.0
            worker.loop.steps_left = -1
            worker.die_within(-1)
        if not self.workers:
            self.start_worker()

    def _drained(self) -> bool:
        settings = self.plan.settings
        for number in range(PARTITIONS):
            owner = self.group.owner_of(number)
            owned = owner.partitions.owned.get(number) if owner else None
            if owned is None or owned.partition.loading.users or not owned.partition.all_durable:
                return False
            for topic in (settings.updates_topic, settings.queries_topic):
                tp = TopicPartition(topic, number)
                if self.group.committed.get(tp, (0, ""))[0] != self.logs[tp].end:
                    return False
        return True

    def _state(self) -> str:
        found = []
        for worker in self.workers:
            for number, owned in worker.partitions.owned.items():
                p = owned.partition
                updates = TopicPartition(self.plan.settings.updates_topic, number)
                found.append(
                    f"{worker} partition {number}: position {p.position} of "
                    f"{self.logs[updates].end}, parked {p.loading.parked_updates}, "
                    f"stalled {p.room.stalled}, dirty {p.table.dirty_users}, free {p.table.free}, "
                    f"holds {len(p.watermark)}, closing {p.closing}"
                )
        group = self.group
        return f"{found} committed {group.committed} owners {group.owner} asked {group.asked}"

    # -- workers and faults -------------------------------------------------------------------

    def _fault(self, fault: Any) -> None:
        self.note(f"fault {fault.kind}{fault.args}")
        getattr(self, fault.kind)(*fault.args)

    def _member(self, number: int) -> Worker | None:
        return self.workers[number % len(self.workers)] if self.workers else None

    def start_worker(self) -> None:
        """One more, or again one that died: a static one has the INSTANCE_ID that is free."""
        if len(self.workers) < WORKERS_MAX:
            taken = {worker.instance for worker in self.workers if self.plan.static}
            self._start(next(i for i in INSTANCES if i not in taken))

    def twin(self, member: int) -> None:
        """Somebody starts a worker with the INSTANCE_ID of another one."""
        worker = self._member(member)
        if worker is not None and self.plan.static:
            self.disturbed(self.group.numbers_of(worker))
            self._start(worker.instance)

    def _start(self, instance: str) -> None:
        self.workers.append(Worker(self, next(self._names), instance if self.plan.static else ""))
        self.note(f"{self.workers[-1]} starts {self.workers[-1].instance}")

    def crash(self, member: int, steps: int, table: str) -> None:
        """kill -9 between two steps of its loop."""
        worker = self._member(member)
        if worker is not None:
            self._table = table
            worker.loop.steps_left = steps

    def crash_in_effect(self, member: int, effects: int, table: str) -> None:
        """kill -9 in the middle of a step, at something it does to the world."""
        worker = self._member(member)
        if worker is not None:
            self._table = table
            worker.die_within(effects)

    def reboot(self, choose: float) -> None:
        """The machine loses power: all die, and some pages of their files never got to the disk."""
        self._table = "kept"
        for worker in list(self.workers):
            worker.loop.dead = True
            self.died(worker)
        self.boot = f"boot {self.clock.now}".encode().ljust(layout.BOOT_ID_BYTES)
        for path in sorted(self.folder.glob("*.table")):
            data = bytearray(path.read_bytes())
            for at in range(PAGE_BYTES, len(data), PAGE_BYTES):
                if self.noise.random() < choose:
                    size = len(data[at : at + PAGE_BYTES])
                    data[at : at + PAGE_BYTES] = bytes(size)
            path.write_bytes(data)

    def freeze(self, member: int, for_s: float) -> None:
        """SIGSTOP, later SIGCONT: a zombie if it lasts longer than a session."""
        worker = self._member(member)
        if worker is not None:
            self.disturbed(self.group.numbers_of(worker), for_s)
            worker.loop.frozen_until = self.clock.now + for_s
            self._silent(worker, for_s)

    def cut_off(self, member: int, for_s: float) -> None:
        """The coordinator is out of reach: a zombie that reads, writes and answers on."""
        worker = self._member(member)
        if worker is not None:
            self.disturbed(self.group.numbers_of(worker), for_s)
            worker.member.cut_until = self.clock.now + for_s
            self._silent(worker, for_s)

    def coordinator_away(self, for_s: float) -> None:
        """No member reaches the group's coordinator, and no session ends: it moves, or restarts."""
        for worker in self.workers:
            self.disturbed(self.group.numbers_of(worker), for_s)
            worker.member.cut_until = max(worker.member.cut_until, self.clock.now + for_s)

    def _silent(self, worker: Worker, for_s: float) -> None:
        if for_s > SESSION_S:
            member_id = worker.member.id
            self.clock.later(SESSION_S, lambda: self._session_over(worker, member_id))

    def _session_over(self, worker: Worker, member_id: int) -> None:
        self.note(f"{worker}: session over")
        self.group.remove(member_id)

    def stop_worker(self, member: int) -> None:
        worker = self._member(member)
        if worker is not None:
            self.disturbed(self.group.numbers_of(worker), 1.0)
            worker.stop()

    def stopped(self, worker: Worker) -> None:
        """It handed over what it had."""
        self.clock.later(0.0, lambda: self._left(worker))

    def _left(self, worker: Worker) -> None:
        if worker in self.workers:
            self.note(f"{worker} leaves")
            self.gone(worker)
            if not worker.instance:
                self.group.remove(worker.member.id)
            else:  # it may come back
                self._silent(worker, SESSION_S + 1)

    def died(self, worker: Worker) -> None:
        """Its loop has ended, one way or the other."""
        if worker not in self.workers:
            return
        self.note(f"{worker} dies, table {self._table}")
        self.gone(worker)
        self._silent(worker, SESSION_S + 1)

    def gone(self, worker: Worker) -> None:
        self.disturbed(self.group.numbers_of(worker), SESSION_S)
        self.workers.remove(worker)
        worker.loop.kill()
        for file in worker.files():
            data = file.path.read_bytes() if not file.private else b""
            file.close(clean=False)
            if self._table == "lost" and not file.private:
                file.path.unlink()
            elif not file.private:
                file.path.write_bytes(data)  # a process that died has not closed it
        if not self.ending and (self.faulty or not self.workers):
            self.clock.later(RESTART_S * (1 + 3 * self.noise.random()), self.start_worker)

    def rebalance(self, number: int) -> None:
        """The group moves a partition to another member."""
        self.group.move(number)

    def waver(self, number: int, for_s: float) -> None:
        """The same, and a little later it wants it to stay after all."""
        self.clock.later(for_s, self.group.move(number))

    def database_down(self, for_s: float) -> None:
        self.down = True
        self.clock.later(for_s, self._database_up)

    def _database_up(self) -> None:
        self.down = False

    def evict(self, member: int) -> None:
        """Other users need the room of all that are clean."""
        worker = self._member(member)
        for owned in worker.partitions.owned.values() if worker else ():
            owned.partition.table.evict(owned.partition.table.slots, 10**6)

    def feed_down(self, for_s: float) -> None:
        """The broker takes no record of the change feed; nothing but commits may wait for it."""
        self.feed_is_down = True
        self.clock.later(for_s, self._feed_up)

    def _feed_up(self) -> None:
        self.feed_is_down = False

    def writes_down(self, for_s: float) -> None:
        """The database gives and does not take: tables fill up with what is dirty."""
        self.read_only_until = self.clock.now + for_s

    def retention(self, share: float) -> None:
        """Kafka deletes old records, none that is not committed."""
        for tp, log in self.logs.items():
            low, high = log.start, self.group.committed.get(tp, (0, ""))[0]
            log.start = low + int((high - low) * share)


@contextmanager
def surroundings() -> Iterator[Path]:
    """A folder in memory, and no log lines."""
    logger = logging.getLogger("readstates")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    shm = tablefile.SHM if tablefile.SHM.is_dir() else None
    try:
        with tempfile.TemporaryDirectory(prefix="read-states-sim-", dir=shm) as folder:
            yield Path(folder)
    finally:
        logger.setLevel(level)


def run(plan: Plan) -> World:
    """Run a plan; raises Violation with the world's trace as a note."""
    boot_id = tablefile.boot_id
    with surroundings() as folder:
        world = World(plan, folder)
        tablefile.boot_id = lambda: world.boot
        try:
            world.run()
        except BaseException as exc:
            exc.add_note("\n".join(f"  {at:8.4f} {text}" for at, text in world.trace))
            raise
        finally:
            tablefile.boot_id = boot_id
            world.clock.enter(None)
            world.ending = True
            for worker in list(world.workers):
                world.gone(worker)
    return world
