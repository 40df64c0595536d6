"""A supervisor, in a process of its own, with small programs in the worker's place."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from readstates.streams.worker.supervise import PAUSE_MAX_S, pause_after
from tests.support.waiting import WAIT_S, until

SUPERVISOR = """
import ctypes, errno, logging, os, signal, sys, time
from pathlib import Path
from readstates.streams.worker import supervise
logging.basicConfig(format="%(message)s", stream=sys.stdout)
folder = Path(sys.argv[1])
for number in (signal.SIGINT, signal.SIGHUP):  # whoever runs the tests may ignore them
    signal.signal(number, signal.SIG_DFL)

def note(number, _frame):
    with (folder / "signals").open("a") as notes:
        notes.write(f"{{signal.Signals(number).name}}\\n")

def worker():
    with (folder / "pids").open("a") as notes:
        notes.write(f"{{os.getpid()}}\\n")
    start = len((folder / "pids").read_text().split())
    exec((folder / "worker.py").read_text(), {{**globals(), "start": start}})

{before}
sys.exit(supervise.Supervisor(worker, shutdown_timeout_s=0.5).run())
"""
SERVE = """
def end(number, frame):
    note(number, frame)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, end)
with (folder / "serving").open("a") as notes:
    notes.write(f"{os.getpid()}\\n")
while True:
    time.sleep(60)
"""


class Supervised:
    """A supervisor and the notes of its workers."""

    def __init__(self, folder: Path, worker: str, before: str = "") -> None:
        self._folder = folder
        (folder / "worker.py").write_text(worker)
        self._said = folder / "said"
        code = SUPERVISOR.format(before=before)
        with self._said.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, folder], stdout=out, stderr=out
            )

    def pids(self, name: str = "pids") -> list[int]:
        path = self._folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def serving(self, start: int) -> int:
        """The PID of the worker of that start, once it handles signals."""
        return until(lambda: self.pids("serving")[start - 1 : start], f"start {start}")[0]

    def said(self) -> str:
        return self._said.read_text()

    def signals(self) -> list[str]:
        return (self._folder / "signals").read_text().split()

    def ends(self, number: int = 0) -> int:
        """The exit status, after that signal."""
        if number:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in filter(alive, self.pids()):  # of an attempt that failed
            os.kill(pid, signal.SIGKILL)


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    made: list[Supervised] = []

    def start(worker: str = SERVE, before: str = "") -> Supervised:
        made.append(Supervised(tmp_path, worker, before))
        return made[-1]

    yield start
    for one in made:
        one.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_was_killed_is_started_again(supervise: Supervise) -> None:
    supervised = supervise()
    first = supervised.serving(1)
    os.kill(first, signal.SIGKILL)
    second = supervised.serving(2)
    assert not alive(first)
    (line,) = supervised.said().splitlines()
    assert re.fullmatch(r"worker_restart cause=SIGKILL lived_s=\d+\.\d pause_s=0", line)
    assert supervised.ends(signal.SIGTERM) == 0
    assert not alive(second)


def test_it_is_quiet_while_nothing_happens(supervise: Supervise) -> None:
    supervised = supervise()
    supervised.serving(1)
    assert supervised.ends(signal.SIGTERM) == 0
    assert supervised.said() == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_is_passed_on_once(supervise: Supervise, name: str) -> None:
    supervised = supervise()
    pid = supervised.serving(1)
    assert supervised.ends(getattr(signal, name)) == 0
    assert supervised.signals() == [name]
    assert not alive(pid)


def test_a_signal_that_is_ignored_stays_so(supervise: Supervise) -> None:
    """`nohup` ignores SIGHUP, for the worker, too."""
    supervised = supervise(before="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    pid = supervised.serving(1)
    supervised.process.send_signal(signal.SIGHUP)
    os.kill(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGKILL)
    supervised.serving(2)
    assert supervised.ends(signal.SIGTERM) == 0
    assert supervised.signals() == ["SIGTERM"]


def test_a_worker_that_does_not_handle_the_signal_yet(supervise: Supervise) -> None:
    """It has nothing to hand over."""
    supervised = supervise("time.sleep(600)")
    until(supervised.pids, "started")
    assert supervised.ends(signal.SIGTERM) == 0
    assert not alive(supervised.pids()[0])


@pytest.mark.parametrize("status", [0, 2])
def test_it_ends_with_a_worker_that_has_ended_for_good(supervise: Supervise, status: int) -> None:
    supervised = supervise(f"sys.exit({status})")
    assert supervised.ends() == status
    assert len(supervised.pids()) == 1
    assert supervised.said() == ""


def test_other_refusals_are_tried_again_with_growing_pauses(supervise: Supervise) -> None:
    limits = "supervise.PAUSE_MIN_S, supervise.PAUSE_MAX_S = 0.01, 0.04"
    supervised = supervise("sys.exit(1 if start < 7 else 0)", limits)
    assert supervised.ends() == 0
    pauses = ["0", "0.01", "0.02", "0.04", "0.04", "0.04"]
    assert re.findall(r"pause_s=(\S+)", supervised.said()) == pauses
    assert supervised.said().count("cause=exit_status_1 ") == 6


def test_a_worker_that_lived_long_is_started_at_once(supervise: Supervise) -> None:
    supervised = supervise("sys.exit(1 if start < 5 else 0)", "supervise.HEALTHY_S = 0")
    assert supervised.ends() == 0
    assert re.findall(r"pause_s=(\S+)", supervised.said()) == ["0"] * 4


def test_pauses() -> None:
    assert [pause_after(deaths) for deaths in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert pause_after(10**9) == PAUSE_MAX_S


def test_a_signal_in_a_pause_ends_it(supervise: Supervise) -> None:
    supervised = supervise("sys.exit(1)", "supervise.PAUSE_MIN_S = supervise.PAUSE_MAX_S = 600")
    until(lambda: "pause_s=600" in supervised.said(), "a pause")
    assert supervised.ends(signal.SIGTERM) == 0
    assert len(supervised.pids()) == 2


def test_a_worker_that_does_not_end_is_killed(supervise: Supervise) -> None:
    supervised = supervise(SERVE.replace("sys.exit(0)", "pass"), "supervise.KILL_MARGIN_S = 0.5")
    pid = supervised.serving(1)
    assert supervised.ends(signal.SIGTERM) == 128 + signal.SIGKILL
    assert not alive(pid)
    assert supervised.said() == f"worker_killed pid={pid}: it did not end in time\n"


FORK_FAILS = """
def fails():
    raise BlockingIOError(errno.EAGAIN, "too many processes")
os.fork = fails
supervise.PAUSE_MIN_S = supervise.PAUSE_MAX_S = 600
"""


def test_a_worker_that_cannot_be_started(supervise: Supervise) -> None:
    supervised = supervise(SERVE, FORK_FAILS)
    until(lambda: "pause_s=600" in supervised.said(), "a pause")
    assert supervised.said().count(f"cause=fork_failed_{errno.EAGAIN} ") == 2
    assert supervised.ends(signal.SIGINT) == 0


def test_no_worker_survives_a_supervisor_that_was_killed(supervise: Supervise) -> None:
    """It shuts down in good order, as after SIGTERM."""
    supervised = supervise()
    pid = supervised.serving(1)
    assert supervised.ends(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not alive(pid), "the worker ends")
    assert supervised.signals() == ["SIGTERM"]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no subreaper")
def test_adopted_processes_are_reaped(supervise: Supervise) -> None:
    """Process 1 of a container adopts the children of those that died."""
    orphan = (
        "\nif os.fork() == 0:\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\n"
    )
    adopt = "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER"
    supervised = supervise(orphan + "os.wait()\n" + SERVE, adopt)
    worker, pid = supervised.serving(1), supervised.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: len(children.read_text().split()) == 2, "it is adopted")
    (adopted,) = {int(each) for each in children.read_text().split()} - {worker}
    os.kill(adopted, signal.SIGKILL)
    until(lambda: children.read_text().split() == [str(worker)], "it is reaped")
    assert supervised.ends(signal.SIGTERM) == 0
