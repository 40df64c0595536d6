"""Supervised: for how long the queries of a user go unanswered when a supervised worker is killed.

The scene is that of the handover bench: three workers, 5,000 updates per second, changes that wait
for 30 s for their write-out, and queries of all users in turn. Here all workers run under their
supervisors, and each round kills one of them by SIGKILL (the worker, not the supervisor). It comes
back under its name in the group, with its tables, and folds again what they do not hold. A round
costs the longest wait of the queries around it; for the partitions of the other workers, it should
be as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
import time

from ..local.worker import WorkerProcess
from .handover import PARTITIONS, WORKERS, Scene
from .suite import NO_GOAL, Goal, Suite

ROUNDS = 3
QUICK_SETTLE_S = 12.0  # longer than a worker must live to be started again at once
BACK_S = 3.0  # the goal, replay included


class Supervised(Scene):
    """The scene of the handover bench, with supervisors."""

    arguments = ("--supervise",)

    def kill(self, name: str) -> set[int]:
        """Kill the worker, not its supervisor; returns its partitions."""
        worker = self.workers[name]
        partitions = owned(worker)
        self.event("SIGKILL")
        os.kill(worker.supervised_pid, signal.SIGKILL)
        return partitions


def owned(worker: WorkerProcess) -> set[int]:
    """The partitions that a worker has."""
    label = "read_states_resident_users{partition="
    return {
        int(name.removeprefix(label).rstrip("}"))
        for name in worker.metrics()
        if name.startswith(label)
    }


def run(suite: Suite) -> None:
    """Kill each of the workers once; the quick form kills one."""
    scene = Supervised(suite)
    if suite.quick:
        suite.leave_out("two of the three kills, and most of the waiting before them")
        scene.settle_s = QUICK_SETTLE_S
    scene.start()
    killed: list[set[int]] = []
    for number in range(1, 2 if suite.quick else ROUNDS + 1):
        time.sleep(scene.settle_s)
        scene.event("nothing")
        time.sleep(scene.settle_s)
        killed.append(scene.kill(f"worker-{1 + number % WORKERS}"))
    scene.finish()
    waits = {
        what: [f["longest_wait_s_by_partition"] for f in scene.found if f["event"] == what]
        for what in ("nothing", "SIGKILL")
    }
    suite.measured["events"] = scene.found
    rounds = list(zip(waits["SIGKILL"], killed, strict=True))
    theirs = [max(by[n] for n in gone) for by, gone in rounds]
    others = [max(by[n] for n in range(PARTITIONS) if n not in gone) for by, gone in rounds]
    suite.bound(
        "longest wait after SIGKILL of a supervised worker", theirs, "s", Goal(at_most=BACK_S)
    )
    suite.bound("… of the other workers' queries", others, "s", NO_GOAL)
    suite.bound("… while nothing happens", [max(by) for by in waits["nothing"]], "s", NO_GOAL)
