"""Whatever thread or task of a worker ends or hangs: somebody hears of it.

THREADS and TASKS say what comes of each; a worker that has another one makes the first test fail.
Each test has a worker of its own, in a service that all of them share.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.preloaded import PreloadedWorker
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until

ENDS = "the worker ends"
NOT_READY = "the probe says why, and /readyz says no"
UNAVAILABLE = "users are not loaded, which the probe notices"
MEANWHILE = "it does one thing and ends by itself"

# What comes of the death of each thread, by its name.
THREADS = {
    "MainThread": MEANWHILE,  # the event loop: the process ends with it
    "delivery": ENDS,
    "group": ENDS,
    "read-it-threads.updates": ENDS,
    "read-it-threads.queries": ENDS,
    "leaders-it-threads.updates": ENDS,
    "leaders-it-threads.queries": ENDS,
    "rollout": ENDS,
    "probe": NOT_READY,
    # The Cassandra driver's. The first two cannot be ended from outside, so that a hang is tried.
    "event_loop": UNAVAILABLE,  # its connections
    "Task Scheduler": UNAVAILABLE,  # its reconnections
    "Connection heartbeat": ENDS,
    # A task of a pool that fails is an error of whoever waits for it, and the pool goes on.
    "group-questions": MEANWHILE,
    "watch-Kafka": MEANWHILE,
    "watch-Cassandra": MEANWHILE,
    "uvloop": MEANWHILE,
    "ThreadPoolExecutor": MEANWHILE,  # the Cassandra driver's
    "connect": MEANWHILE,
}
# The tasks on the event loop that last as long as the worker.
TASKS = {
    f"WorkerService._{name}": ENDS
    for name in (
        "fold", "write_out", "expire", "follow_addresses", "commit", "look_for_changes",
        "compare_clocks", "export_gauges",
    )
}  # fmt: skip
TASKS |= {"Agent._execute_actor": ENDS, "Rebalancer._hold": ENDS}
# The pulses of those that are called otherwise.
LOOPS = {
    "WorkerService._look_for_changes": "watch",
    "WorkerService._compare_clocks": "clocks",
    "WorkerService._export_gauges": "gauges",
}
# Those that wait for others, and those of Faust that nothing depends on while all goes well.
OTHER_TASKS = {
    "Event.wait", "Monitor._sampler", "Service._execute_task", "Service.start",
    "SupervisorStrategy._supervisor",
}  # fmt: skip
ONE_OF_EACH = ("delivery", "WorkerService._commit")  # the others take minutes

_numbers = itertools.count()


@pytest.fixture(scope="module")
def service(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "threads", probe_interval_s=0.5, instance_id="-")
    try:
        yield made
    finally:
        made.close()


class Harmed:
    """A worker, and the file that says what is to be harmed."""

    def __init__(self, service: Service) -> None:
        number = next(_numbers)
        self.file = service.folder / f"harm-{number}"
        env = {
            **service.env,
            "HARM_FILE": str(self.file),
            "READ_STATES_CACHE_DIR": str(service.folder / f"tables-threads-{number}"),
        }
        log = service.folder / f"harmed-{number}.log"
        self.worker = PreloadedWorker(env, log, module="tests.support.harmed_worker").start()

    def harm(self, verb: str, name: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{verb} {name}\n")

    def found(self, kind: str) -> list[str]:
        path = self.file.with_suffix(".found")
        names: list[str] = json.loads(path.read_text())[kind] if path.exists() else []
        return names


@pytest.fixture
def harmed(service: Service) -> Iterator[Harmed]:
    made = Harmed(service)
    try:
        made.worker.wait_ready(2 * WAIT_S)
        yield made
    finally:
        made.worker.kill()


def known(name: str) -> str:
    """A thread's name without the number in its pool, or the address of its broker."""
    for pool in ("group-questions", "watch-Kafka", "watch-Cassandra", "uvloop", "connect"):
        if name.startswith((f"{pool}-", f"{pool}_")):
            return pool
    return "ThreadPoolExecutor" if name.startswith("ThreadPoolExecutor") else name


def test_none_is_left_out(harmed: Harmed) -> None:
    until(lambda: harmed.found("tasks"), "what there is")
    threads = {known(name) for name in harmed.found("threads")}
    assert threads - THREADS.keys() == set()
    lasting = {name for name, what in THREADS.items() if what != MEANWHILE}
    assert lasting - threads == set()
    tasks = set(harmed.found("tasks"))
    assert TASKS.keys() - tasks == set()
    assert tasks - TASKS.keys() - OTHER_TASKS == set()


def _params(names: dict[str, str]) -> list[object]:
    return [
        pytest.param(name, marks=[] if name in ONE_OF_EACH else pytest.mark.long)
        for name, what in names.items()
        if what == ENDS
    ]


@pytest.mark.parametrize("name", _params(THREADS))
def test_a_thread_that_dies_ends_the_worker(harmed: Harmed, name: str) -> None:
    harmed.harm("end", name)
    ends(harmed.worker)
    assert "Injected" in harmed.worker.output()


@pytest.mark.parametrize("name", _params(TASKS))
def test_a_task_that_ends_ends_the_worker(harmed: Harmed, name: str) -> None:

    def cancels() -> bool:  # `wait_for` of Python 3.11 may swallow one
        harmed.harm("cancel", name)
        return harmed.worker.returncode is not None

    until(cancels, "the worker ends", 2 * WAIT_S)
    ends(harmed.worker)


@pytest.mark.parametrize("name", ["callback", pytest.param("task", marks=pytest.mark.long)])
def test_what_fails_on_the_event_loop_ends_the_worker(harmed: Harmed, name: str) -> None:
    harmed.harm("call", name)
    ends(harmed.worker)
    assert "ended_unexpectedly" in harmed.worker.output()


def ends(worker: WorkerProcess) -> None:
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == 1, worker.output()[-2000:]


def test_the_probe_that_dies_makes_the_worker_not_ready(harmed: Harmed) -> None:
    harmed.harm("end", "probe")
    says_no(harmed.worker, "/readyz", lambda text: "the probe has ended" in text)
    assert "probe_ended" in harmed.worker.output()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("probe", "/readyz"),
        pytest.param("leaders-it-threads.queries", "/readyz", marks=pytest.mark.long),
        pytest.param("group", "/healthz", marks=pytest.mark.long),
        pytest.param("delivery", "/healthz", marks=pytest.mark.long),
        pytest.param("read-it-threads.updates", "/healthz", marks=pytest.mark.long),
        pytest.param("read-it-threads.queries", "/healthz", marks=pytest.mark.long),
    ],
)
def test_a_thread_that_hangs_is_found(harmed: Harmed, name: str, path: str) -> None:

    def is_it(text: str) -> bool:
        harmed.harm("hold", name)  # again: a callback of a library may swallow an error
        return f"stuck: {name}" in text

    says_no(harmed.worker, path, is_it)
    until(lambda: f"stuck name={name}" in harmed.worker.output(), "the log says so")
    assert harmed.worker.metrics()[f"read_states_stuck{{name={name}}}"] == 1
    assert harmed.worker.returncode is None


@pytest.mark.parametrize(
    ("loop", "name"),
    [
        ("expire", "expire"),
        pytest.param("follow_addresses", "follow_addresses", marks=pytest.mark.long),
        pytest.param("write_out", "write_out", marks=pytest.mark.long),
        pytest.param("commit", "commit", marks=pytest.mark.long),
    ],
)
def test_a_loop_that_hangs_is_found(harmed: Harmed, loop: str, name: str) -> None:
    harmed.harm("stall", f"WorkerService._{loop}")
    says_no(harmed.worker, "/readyz", lambda text: f"stuck: {name}" in text)
    until(lambda: f"stuck name={name}" in harmed.worker.output(), "the log says so")
    assert harmed.worker.metrics()[f"read_states_stuck{{name={name}}}"] == 1


def test_every_loop_and_thread_has_a_pulse(harmed: Harmed) -> None:
    """Those on whose death the worker ends: if one hangs instead, that is seen as well."""
    found = harmed.worker.metrics()
    stuck = {name for name in map(str, found) if name.startswith("read_states_stuck")}
    pulses = {name.removeprefix("read_states_stuck{name=").removesuffix("}") for name in stuck}
    loops = {LOOPS.get(name, name).removeprefix("WorkerService._") for name in TASKS}
    threads = {name for name, what in THREADS.items() if what in (ENDS, NOT_READY)}
    assert (loops | threads) - pulses == {
        "Connection heartbeat",  # the Cassandra driver's: the probe notices
        "Agent._execute_actor",  # they wait for polls, which the probe notices
        "Rebalancer._hold",  # it waits for the group, and the partition does not open or leave
    }


@pytest.mark.long
def test_a_driver_that_hangs_is_found(harmed: Harmed) -> None:
    harmed.harm("hold", "event_loop")
    says_no(harmed.worker, "/readyz", lambda text: "store_unavailable" in text)


def says_no(worker: WorkerProcess, path: str, is_it: Callable[[str], bool]) -> None:
    def look() -> bool:
        status, text = worker.get(path)
        return is_it(text) and status == 503

    until(look, f"{path} says no", 2 * WAIT_S)
