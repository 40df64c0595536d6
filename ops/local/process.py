"""Server processes: started in a session of their own, known by pid *and* start time.

A pid alone is reused by the system; nothing here signals a process whose start time is not the
recorded one, so a stale state file can never make the stack stop a stranger.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import StopFailed

STOP_TIMEOUT_S = 20.0  # from SIGTERM to SIGKILL: Cassandra drains, and Kafka hands over its leaders
KILL_TIMEOUT_S = 30.0  # from SIGKILL to the end: a busy machine frees a gigabyte slowly
POLL_S = 0.05


@dataclass(frozen=True)
class ProcessId:
    """One certain process: `started` is the system's own record of when it began."""

    pid: int
    started: str


def spawn(argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> ProcessId:
    """Starts `argv` in its own session, input empty, output to `log` (the last one becomes .1).

    Raises OSError if the program cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    log.touch()
    writing = os.O_WRONLY | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()),
        ],
        setsid=True,  # Ctrl-C in the terminal does not reach it
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )
    return identify(pid) or ProcessId(pid, "gone")


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None if there is none."""
    started = _started(pid)
    return ProcessId(pid, started) if started else None


def _inheritable() -> list[int]:
    """Inherited open descriptors, such as a pipe or a lock, which a server must not keep."""
    found = []
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            if number > 2 and os.get_inheritable(number):
                found.append(number)
    return found


def is_alive(process: ProcessId) -> bool:
    """True if that very process still runs. A dead child of ours is reaped on the way."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(process.pid, os.WNOHANG)[0] == process.pid:
            return False
    return _started(process.pid) == process.started


def freeze(process: ProcessId) -> None:
    """Sends SIGSTOP, and waits until every thread has stopped.

    On a busy machine that takes some time, and until then the process still answers.
    """
    send(process, signal.SIGSTOP)
    end = time.monotonic() + KILL_TIMEOUT_S
    while is_alive(process) and not _stands(process.pid) and time.monotonic() < end:
        time.sleep(POLL_S / 10)


def _stands(pid: int) -> bool:
    """True if all threads have stopped, or the system does not say it (macOS)."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():
        return True
    states = []
    for stat in tasks.glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread has just ended
            states.append(stat.read_text("ascii", "replace").rpartition(")")[2].split()[0])
    return all(state in "TtZX" for state in states)


def thaw(process: ProcessId) -> None:
    """Sends SIGCONT."""
    send(process, signal.SIGCONT)


def stop(processes: Iterable[ProcessId], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Ends all of them together: SIGTERM, and SIGKILL for those left after `timeout_s`.

    A process stopped with SIGSTOP is continued, or it would never see the SIGTERM. Returns when
    none is alive. Raises StopFailed if one still is KILL_TIMEOUT_S after the SIGKILL.
    """
    left = list(processes)
    for numbers, bound_s in (
        ((signal.SIGTERM, signal.SIGCONT), timeout_s),
        ((signal.SIGKILL,), KILL_TIMEOUT_S),
    ):
        for process in left:
            for number in numbers:
                send(process, number)
        deadline = time.monotonic() + bound_s
        while (left := [one for one in left if is_alive(one)]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    if left:
        raise StopFailed(
            f"still alive {KILL_TIMEOUT_S:.0f} s after SIGKILL: "
            f"{', '.join(str(process.pid) for process in left)}. The system holds them back "
            "(ps -o stat,wchan -p PID says where); look again later."
        )


def send(process: ProcessId, number: int) -> None:
    """Signals that very process, and never another one that has its pid now."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):  # macOS
            if is_alive(process):
                os.kill(process.pid, number)
            return
        held = os.pidfd_open(process.pid)  # stays with the process that has the pid now
        try:
            if is_alive(process):
                signal.pidfd_send_signal(held, number)
        finally:
            os.close(held)


def last_lines(log: Path, lines: int = 25) -> str:
    """The end of a log, for an error message; empty if there is none."""
    try:
        text = log.read_text("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _started(pid: int) -> str | None:
    """When the process began, as text to compare; None if it is a zombie or does not exist."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        return None if fields[0] in "ZX" else f"{fields[19]}@{boot_id}"
    ps = shutil.which("ps") or "/bin/ps"
    shown = subprocess.run(
        [ps, "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(shown) < 2 or shown[0].startswith("Z") else shown[1].strip()
