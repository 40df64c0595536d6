"""Handover: for how long the queries of a user go unanswered when partitions change their owner.

There are three workers, each with a folder of its own (as on separate machines), 5,000 updates per
second, changes that wait for 30 s for their write-out, and queries of all users in turn. Each
repetition has these events once: nothing at all, to compare with; a worker ends by SIGTERM and
starts again; a fourth one joins and leaves; all three are restarted, one after the other; and one
is killed by SIGKILL and starts again. Between two events the bench waits until as many changes wait
to be written out as before.

A query's wait counts from when it was sent to its first answer; it is never refused, because its
deadline is far away. An event costs the longest wait of the queries sent around it, of those to the
partitions that moved, which the workers' logs name, and of those that stayed. After a SIGKILL
the group waits for the dead worker's session to end, and then its log is folded again; the table
shows beside it how long that replay took, which the survivors' /readyz calls catching up.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topic_check, topics

from ..local.worker import WorkerProcess
from ..proof.traffic import Traffic
from . import picture
from .open_loop import Queries, Updates, create_reply_topic, send_all
from .suite import Goal, Suite

WORKERS = 3
PARTITIONS = 12
USERS = 20_000
UPDATES_A_SECOND = 5_000
QUERIES_A_SECOND = 240
FLUSH_DELAY_S = 30
SESSION_TIMEOUT_S = 10.0
LOOK_S = 0.05
REPETITIONS = 3
# The goals: of partitions that move, of those that stay (beyond the wait without any event), and
# after a SIGKILL (beyond session timeout and replay).
MOVES_S, STAYS_BEYOND_S, KILLED_BEYOND_S = 0.5, 0.02, 0.5
NOTHING, KILLED = "nothing", "SIGKILL"
OPENED = re.compile(r"\bopened partition=(\d+)")
ROLLING = "rolling restart"
BUCKET_S = 0.25  # of the picture of a rolling restart
PICTURE_BEFORE_S = 5.0  # that it shows before the restart
BEFORE = Path(__file__).parent / "results" / "rolling-restart-before.json"
BEFORE_S = 1.0  # a query sent so long before an event may still wait for it


class Replay(threading.Thread):
    """Watches for how long one of the workers was catching up."""

    def __init__(self, workers: dict[str, WorkerProcess]) -> None:
        super().__init__(daemon=True)
        self._workers = workers
        self._ended = threading.Event()
        self.seen_s: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(LOOK_S):
            for worker in list(self._workers.values()):
                if worker.returncode is None and "catching up" in worker.get("/readyz")[1]:
                    self.seen_s.append(time.monotonic())
                    break

    def finish(self) -> None:
        self._ended.set()
        self.join()

    def took_s(self, begin_s: float, end_s: float) -> float:
        """Seconds from the first to the last time that one was seen catching up."""
        seen = [at for at in self.seen_s if begin_s <= at < end_s]
        return seen[-1] - seen[0] + LOOK_S if seen else 0.0


class Scene:
    """The servers, the workers, the load, and the events with their times."""

    arguments: tuple[str, ...] = ()  # of each worker

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.workers: dict[str, WorkerProcess] = {}
        self.events: list[tuple[str, float]] = []  # what, when
        self.found: list[dict[str, Any]] = []  # what each event cost
        self._log_ends: dict[Path, int] = {}  # of the workers' logs, when the last event began
        self.settle_s = FLUSH_DELAY_S + 1.0

    def start(self) -> None:
        self.env = {
            **self.suite.owner.stack(progress=self.suite.say).env(),
            "READ_STATES_FLUSH_DELAY_S": str(FLUSH_DELAY_S),
            "READ_STATES_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
        }
        self.settings = Settings.load(self.env)
        topics.create(self.settings, PARTITIONS, 1)
        create_reply_topic(self.settings)
        store = Store(self.settings)
        store.create_schema()
        # As `readstates init` does: workers that claim at once may move the claim's time.
        store.claim_epoch(self.settings.updates_topic, *topic_check.check(self.settings))
        store.close()
        traffic = Traffic(3, USERS)
        send_all(self.settings, traffic.updates(USERS))
        for number in range(1, WORKERS + 1):
            self.begin(f"worker-{number}")
        for worker in self.workers.values():
            worker.wait_ready()
        self.updates = Updates(self.settings, traffic.updates(10**8), UPDATES_A_SECOND)
        self.queries = Queries(self.settings, PARTITIONS, traffic.user_ids, QUERIES_A_SECOND)
        self.replay = Replay(self.workers)
        for thread in (self.updates, self.queries, self.replay):
            thread.start()

    def begin(self, name: str) -> WorkerProcess:
        folder = self.tables(name)
        env = {**self.env, "READ_STATES_CACHE_DIR": str(folder)}
        log = self.suite.scratch / f"{name}.log"
        worker = WorkerProcess(env, log, *self.arguments).start()
        self.workers[name] = worker
        return worker

    def tables(self, name: str) -> Path:
        return self.suite.scratch / "tables" / name

    def event(self, what: str) -> None:
        self.judge_last()
        self.events.append((what, time.monotonic()))
        logs = self.suite.scratch.glob("worker-*.log")
        self._log_ends = {path: path.stat().st_size for path in logs}

    def moved(self) -> set[int]:
        """The partitions that a worker has opened since the last event began."""
        found: set[int] = set()
        for path in self.suite.scratch.glob("worker-*.log"):
            with path.open("rb") as file:
                file.seek(self._log_ends.get(path, 0))
                text = file.read().decode(errors="replace")
            found.update(int(number) for number in OPENED.findall(text))
        return found

    def judge_last(self) -> None:
        """Note the cost of the last event: the longest wait by partition, and the replay."""
        if not self.events:
            return
        (what, at), now = self.events[-1], time.monotonic()
        waits = [0.0] * PARTITIONS
        for sent_s, took_s, partition in self.queries.between(at - BEFORE_S, now - BEFORE_S):
            waits[partition] = max(waits[partition], took_s if took_s >= 0 else now - sent_s)
        moved = self.moved()
        stays = max((waits[n] for n in range(PARTITIONS) if n not in moved), default=0.0)
        moves = max((waits[n] for n in moved), default=0.0)
        found = {
            "event": what,
            "at_s": round(at - self.queries.sent_s[0], 2),
            "longest_wait_s": round(max(waits), 3),
            "longest_wait_s_stays": round(stays, 3),
            "longest_wait_s_moves": round(moves, 3),
            "moved": sorted(moved),
            "longest_wait_s_by_partition": [round(wait, 3) for wait in waits],
            "replay_s": round(self.replay.took_s(at, now), 2),
        }
        self.found.append(found)
        self.suite.say(
            f"  {what}: stays {stays:.3f} s, moves {moves:.3f} s ({len(moved)} partitions), "
            f"replay {found['replay_s']} s"
        )

    def longest_waits(self, what: str) -> list[tuple[float, float]]:
        """The longest waits around the first event of this name.

        Each is (seconds since the event began, longest wait in seconds of the queries sent then).
        """
        names = [name for name, _ in self.events]
        place = names.index(what)
        at, end = self.events[place][1], self.events[place + 1][1]
        longest: dict[int, float] = {}
        for sent_s, took_s, _ in self.queries.between(at - PICTURE_BEFORE_S, end - BEFORE_S):
            bucket = math.floor((sent_s - at) / BUCKET_S)
            longest[bucket] = max(longest.get(bucket, 0.0), took_s)
        return [(bucket * BUCKET_S, round(wait, 4)) for bucket, wait in sorted(longest.items())]

    def repetition(self, number: int) -> None:
        """Run all events once."""
        leaver = f"worker-{1 + number % WORKERS}"
        victim = f"worker-{1 + (number + 1) % WORKERS}"
        time.sleep(self.settle_s)
        self.event(NOTHING)
        time.sleep(self.settle_s)
        self.event("SIGTERM")
        self.workers.pop(leaver).stop()
        time.sleep(self.settle_s)
        self.event("it comes again")
        self.begin(leaver).wait_ready()
        time.sleep(self.settle_s)
        self.event("a fourth joins")
        self.begin("worker-4").wait_ready()
        time.sleep(self.settle_s)
        self.event("the fourth leaves")
        self.workers.pop("worker-4").stop()
        time.sleep(self.settle_s)
        self.event(ROLLING)
        for name in list(self.workers):
            self.workers.pop(name).stop()
            self.begin(name).wait_ready()
        time.sleep(self.settle_s)
        self.event(KILLED)
        self.workers.pop(victim).kill()
        time.sleep(SESSION_TIMEOUT_S + self.settle_s)
        self.event("the killed one comes again")
        self.begin(victim).wait_ready()

    def finish(self) -> None:
        time.sleep(self.settle_s)
        self.judge_last()
        self.updates.finish()
        self.queries.finish()
        self.replay.finish()


def run(suite: Suite) -> None:
    """Run all repetitions with one set of servers, and draw one picture."""
    if suite.quick:
        suite.leave_out("all of it: minutes of waiting between events; `make bench` has it")
        return

    scene = Scene(suite)
    scene.start()
    for number in range(REPETITIONS):
        suite.say(f"repetition {number + 1}")
        scene.repetition(number)
    scene.finish()
    found = scene.found
    suite.measured["events"] = found
    suite.measured["updates_sent"] = scene.updates.sent
    killed = [one for one in found if one["event"] == KILLED]
    for name in dict.fromkeys(one["event"] for one in found):
        of_name = [one for one in found if one["event"] == name]
        stays = [one["longest_wait_s_stays"] for one in of_name]
        moves = [one["longest_wait_s_moves"] for one in of_name]
        suite.say(f"  {name}: longest waits of partitions that stay {stays} s, that move {moves} s")
    undisturbed = max(one["longest_wait_s"] for one in found if one["event"] == NOTHING)
    graceful = [one for one in found if one["event"] not in (NOTHING, KILLED)]
    suite.bound(
        "longest wait at a graceful change, partitions that move, the worst of all",
        [max(one["longest_wait_s_moves"] for one in graceful)],
        "s",
        Goal(at_most=MOVES_S),
    )
    suite.bound(
        "longest wait at a graceful change, partitions that stay, beyond that without a change",
        [max(one["longest_wait_s_stays"] for one in graceful) - undisturbed],
        "s",
        Goal(at_most=STAYS_BEYOND_S),
    )
    beyond = [one["longest_wait_s"] - SESSION_TIMEOUT_S - one["replay_s"] for one in killed]
    suite.bound(
        "longest wait after SIGKILL, beyond session timeout and replay",
        [max(beyond)],
        "s",
        Goal(at_most=KILLED_BEYOND_S),
    )
    suite.bound(
        "queries never answered or refused",
        [float(sum(took < 0 for took in scene.queries.took_s))],
        "",
        Goal(at_most=0),
    )
    draw(suite, scene)
    rolling = scene.longest_waits(ROLLING)
    suite.measured["rolling_restart"] = rolling
    draw_rolling(suite, rolling)


def draw_rolling(suite: Suite, after: list[tuple[float, float]]) -> None:
    """Draw the longest waits through a rolling restart, beside those of the earlier group.

    BEFORE holds what this bench measured of commit 1ef27a0, whose group stopped every partition.
    """
    figure, axes = picture.figure("the longest wait of any query while three workers restart", 1)
    (axis,) = axes
    before = json.loads(BEFORE.read_text("utf-8"))
    for waits, colour, label in (
        (before, picture.ORANGE, "before: every change stops every partition"),
        (after, picture.BLUE, "now: only those that move, and not for long"),
    ):
        axis.step(
            [at for at, _ in waits],
            [1000 * wait for _, wait in waits],
            where="post",
            color=colour,
            linewidth=1.2,
            label=label,
        )
    axis.set_yscale("log")
    axis.set_ylabel("longest wait, ms")
    axis.set_xlabel("seconds since the first worker was told to end")
    axis.legend(frameon=False)
    picture.save(suite, figure, "rolling-restart")


def draw(suite: Suite, scene: Scene) -> None:
    """Draw each query's wait over time, with the events marked."""
    zero = scene.queries.sent_s[0]
    figure, axes = picture.figure("waits of queries while partitions change owners", 1)
    (axis,) = axes
    axis.plot(
        [at - zero for at in scene.queries.sent_s],
        [max(took, 0.0005) for took in scene.queries.took_s],
        ".",
        markersize=1.5,
        color=picture.BLUE,
        rasterized=True,
    )
    axis.set_yscale("log")
    axis.set_ylabel("seconds from a query to its answer")
    axis.set_xlabel("seconds")
    axis.axhline(MOVES_S, color=picture.GREEN, linewidth=1, linestyle="--")
    for what, at in scene.events:
        colour = picture.RED if what == KILLED else picture.ORANGE
        axis.axvline(at - zero, color=colour, linewidth=1)
        axis.text(at - zero, 1.02, what, transform=axis.get_xaxis_transform(), rotation=25)
    picture.save(suite, figure, "handover")
