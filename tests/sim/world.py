"""One run of a plan: workers, log, database, group, faults, and then the end."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from readstates.cache import fsck, layout, tablefile
from readstates.ops.proof.oracle import EPOCH
from readstates.schemas.partitioner import partition_of
from readstates.schemas.version import version_of
from readstates.streams.kafka.group_consumer import TopicPartition

from .checks import Asked, Checks, Violation
from .database import Database
from .kafka import Group, Log
from .loop import Clock
from .output import LATE_REPLIES, REPLIES
from .plan import PARTITIONS, TRAFFIC_S, WORKERS_MAX, Plan, Send
from .worker import Worker

FAULTS_UNTIL_S = TRAFFIC_S + 1.0
DRAINED_WITHIN_S = 60.0
SESSION_S = 0.5
RESTART_S = 0.2
PAGE_BYTES = 4096
TRACE_LINES = 400


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
        self.group = Group(self)
        topics = (plan.settings.updates_topic, plan.settings.queries_topic)
        self.logs = {
            TopicPartition(topic, number): Log() for topic in topics for number in range(PARTITIONS)
        }
        self.first_offsets = [self._earlier_epoch(number) for number in range(PARTITIONS)]
        self.workers: list[Worker] = []
        self.failure: BaseException | None = None
        self.faulty = True
        self.ending = False
        self.down = False
        self.read_only_until = 0.0
        self.quiet_since_s = 0.0
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

    def disturbed(self, for_s: float = 0.0) -> None:
        """From now until `for_s` from now it is nobody's fault that a query has no answer."""
        self.quiet_since_s = max(self.quiet_since_s, self.clock.now + for_s + 2.5)

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        for _ in range(1 + self.plan.seed % WORKERS_MAX):
            self.start_worker()
        for send in self.plan.sends:
            self.clock.push(send.at_s, None, lambda send=send: self._send(send))
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
        self.faulty = self.down = False
        self.read_only_until = 0.0
        self.note("faults are over")
        for worker in self.workers:
            worker.loop.frozen_until = worker.consumer.cut_until = 0.0
            worker.loop.steps_left = -1
            worker.die_within(-1)
        if not self.workers:
            self.start_worker()

    def _drained(self) -> bool:
        settings = self.plan.settings
        for number in range(PARTITIONS):
            owner = self.group.owner.get(number)
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
        return f"{found} committed {self.group.committed} owners {self.group.owner}"

    # -- traffic ------------------------------------------------------------------------------

    def _earlier_epoch(self, number: int) -> int:
        """Records that were written out before the epoch began; returns its first offset.

        The oracle does not know of them: a worker that folded one would show it.
        """
        topic = self.plan.settings.updates_topic
        log = self.logs[TopicPartition(topic, number)]
        keys = (send.key for send in self.plan.sends if send.partition == number and send.key)
        for key in itertools.islice(keys, self.plan.earlier):
            event = {"type": "mention", "user_id": int(key), "channel_id": 1, "message_id": 1}
            fields = {"key": key, "partition": number, "timestamp": self.now_ms()}
            log.append(0, topic=topic, value=json.dumps(event).encode(), headers=(), **fields)
        return log.end

    def _send(self, send: Send) -> None:
        settings = self.plan.settings
        skip = self.noise.randint(0, self.plan.gap_max) if self.noise.random() < 0.5 else 0
        fields: dict[str, Any] = {"key": send.key, "partition": send.partition}
        fields["timestamp"] = self.now_ms()
        if not send.query:
            topic = settings.updates_topic
            log = self.logs[TopicPartition(topic, send.partition)]
            record = log.append(skip, topic=topic, value=send.value, headers=(), **fields)
            self.checks.produced(send.partition, record)
            return
        topic = settings.queries_topic
        asked, value, headers = self._question(send)
        log = self.logs[TopicPartition(topic, send.partition)]
        record = log.append(skip, topic=topic, value=value, headers=headers, **fields)
        asked.offset = record.offset
        self.checks.sent(asked)

    def _question(self, send: Send) -> tuple[Asked, bytes, list[tuple[str, bytes]]]:
        user_id, what = send.value["user_id"], dict(send.value)
        body: dict[str, Any] = {"type": "get", "user_id": user_id}
        log = self.logs[TopicPartition(self.plan.settings.updates_topic, send.partition)]
        seen = self.checks.seen.get(user_id, 0)
        since = {
            "last": seen,
            "past": max(0, seen - self.noise.randint(0, 50)),
            "future": version_of(EPOCH, log.end + 5),
        }.get(what["since"])
        if what["since"] is not None:
            body["since_version"] = what["since_version"] = since
        own = max((r.offset for r in log.records[-40:] if r.key == send.key), default=None)
        after = {"own": own, "future": log.end + self.noise.randint(0, 30)}.get(what["after"])
        if after is not None:
            body["after_offset"] = what["after_offset"] = after
        if "channels" in what:
            body["channel_ids"] = what["channels"]
        if "type" in what:
            body["read_state_type"] = what["type"]
        if "bad" in what:
            body["since_version"] = -1
        number = len(self.checks.asked)
        deadline_ms = self.now_ms() + what["left_ms"]
        topic = {"a": REPLIES, "l": LATE_REPLIES}.get(what["topic"], "elsewhere")
        headers = [
            ("kafka_replyTopic", topic.encode()),
            ("kafka_correlationId", b"%d" % number),
            ("read-states-deadline", b"%d" % deadline_ms),
        ]
        asked = Asked(
            number=number,
            partition=send.partition,
            user_id=user_id,
            sent_s=self.clock.now,
            deadline_ms=deadline_ms,
            what=what,
            usable=topic == REPLIES,
            allowed=topic != "elsewhere",
        )
        return asked, json.dumps(body).encode(), headers

    # -- workers and faults -------------------------------------------------------------------

    def _fault(self, fault: Any) -> None:
        self.note(f"fault {fault.kind}{fault.args}")
        getattr(self, fault.kind)(*fault.args)

    def _member(self, number: int) -> Worker | None:
        return self.workers[number % len(self.workers)] if self.workers else None

    def start_worker(self) -> None:
        if len(self.workers) < WORKERS_MAX:
            self.disturbed()
            self.workers.append(Worker(self, next(self._names)))
            self.note(f"{self.workers[-1]} starts")

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
            self.disturbed(for_s)
            worker.loop.frozen_until = self.clock.now + for_s
            self._silent(worker, for_s)

    def cut_off(self, member: int, for_s: float) -> None:
        """The coordinator is out of reach: a zombie that reads, writes and answers on."""
        worker = self._member(member)
        if worker is not None:
            self.disturbed(for_s)
            worker.consumer.cut_until = self.clock.now + for_s
            self._silent(worker, for_s)

    def _silent(self, worker: Worker, for_s: float) -> None:
        if for_s > SESSION_S:
            self.clock.later(SESSION_S, lambda: self._session_over(worker))

    def _session_over(self, worker: Worker) -> None:
        self.disturbed()
        self.note(f"{worker}: session over")
        self.group.leave(worker)

    def stop_worker(self, member: int) -> None:
        worker = self._member(member)
        if worker is not None and not worker.consumer.leaving:
            self.disturbed(1.0)
            worker.stop()

    def stopped(self, worker: Worker) -> None:
        """It handed over what it had."""
        self.clock.later(0.0, lambda: self._left(worker))

    def _left(self, worker: Worker) -> None:
        if worker in self.workers:
            self.note(f"{worker} leaves")
            self._gone(worker)
            self.group.leave(worker)

    def died(self, worker: Worker) -> None:
        """Its loop has ended, one way or the other."""
        if worker not in self.workers:
            return
        self.note(f"{worker} dies, table {self._table}")
        self._gone(worker)
        self.clock.later(SESSION_S, lambda: self._session_over(worker))

    def _gone(self, worker: Worker) -> None:
        self.disturbed()
        self.workers.remove(worker)
        worker.loop.kill()
        for file in worker.files():
            data = file.path.read_bytes() if not file.private else b""
            file.table.close()
            file._mapped.close()
            os.close(file._file)
            if self._table == "lost" and not file.private:
                file.path.unlink()
            elif not file.private:
                file.path.write_bytes(data)  # without the counts that `close` saved
        if not self.ending and (self.faulty or not self.workers):
            self.clock.later(RESTART_S * (1 + 3 * self.noise.random()), self.start_worker)

    def rebalance(self) -> None:
        if self.group.members:
            self.disturbed()
            self.group.rebalance()

    def database_down(self, for_s: float) -> None:
        self.down = True
        self.clock.later(for_s, self._database_up)

    def _database_up(self) -> None:
        self.down = False

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
                world._gone(worker)
    return world
