"""Ends a run from a process beside it, so that the run is cleaned up even after a SIGKILL.

    python -m readstates.ops.local.reaper TOKEN     started by owner.Owner, never by hand

1. Every process that a run starts inherits its token in the environment variable `MARK`, and so do
   the processes that these start. Only a process that has the token is ever signalled.
2. Orders come in lines: `folder PATH` before that folder is made, `stop` when the run was
   interrupted, `end` when it is over. The end of the input, or of the run's process, means `end`.
3. At `end` the processes go first. Folders go when none of the processes is left, and stay if one
   is: a server that writes on would fill them again.
4. Exits 0 if all processes are gone, 1 if not. A folder that stays is named on stderr.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import StopFailed
from .process import ProcessId, identify, stop

MARK = "READSTATES_RUNS"  # not a READ_STATES_ name: it is not a setting of a worker
PARENT_LOOK_S = 0.5  # a forked child of the run can hold the pipe open after the run's death
ROUNDS_MAX = 10  # processes found after so many rounds of stopping come back by themselves
SETTLE_S = 0.2  # by then a process that is just starting shows its environment


def marked(token: str) -> list[ProcessId]:
    """The processes that belong to a run, except this one."""
    mark, wanted = f"{MARK}=".encode(), token.encode()
    found = []
    for pid, environment in _environments():
        if pid == os.getpid():
            continue
        values = [value for value in environment if value.startswith(mark)]
        if any(wanted in value for value in values) and (process := identify(pid)):
            found.append(process)
    return found


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    """Every process of this user with its environment; another user's cannot be read."""
    if Path("/proc/self/environ").exists():
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                yield int(folder.name), (folder / "environ").read_bytes().split(b"\0")
        return
    ps = shutil.which("ps") or "/bin/ps"
    shown = subprocess.run([ps, "-axEwwo", "pid=,command="], capture_output=True, check=True)
    for line in shown.stdout.splitlines():
        pid, *words = line.split()
        yield int(pid), words


def stop_marked(token: str) -> None:
    """Ends every process of a run. Raises StopFailed if one cannot be ended."""
    calm = 0
    for _ in range(ROUNDS_MAX):
        found = marked(token)
        stop(found)
        calm = 0 if found else calm + 1
        if calm == 2:
            return
        time.sleep(SETTLE_S)
    raise StopFailed(
        f"processes of this run come back however often they are ended: "
        f"{', '.join(str(process.pid) for process in marked(token))}. End what starts them."
    )


def remove(folder: Path) -> str | None:
    """Unmounts what is mounted in a folder, and removes it; None, or why it is still there."""
    for mount in _mounts_in(folder):
        subprocess.run(["umount", str(mount)], check=False, capture_output=True)
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{folder} could not be removed ({error}). Remove it: rm -r '{folder}'"
    return None


def _mounts_in(folder: Path) -> list[Path]:
    """Mount points, the innermost first; none if the system does not say it (macOS)."""
    try:
        lines = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    points = [Path(line.split()[1].replace("\\040", " ")) for line in lines]
    return sorted((p for p in points if folder in p.parents), reverse=True)


def finish(token: str, folders: Iterable[Path]) -> bool:
    """Stops processes, then removes folders; True if all processes are gone. Reports on stderr."""
    try:
        stop_marked(token)
    except StopFailed as error:
        _say(f"{error}\nIts folders stay: {', '.join(map(str, folders))}")
        return False
    for folder in folders:
        if why := remove(folder):
            _say(why)
    return True


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{text}\n".encode())


def _orders(parent: int) -> Iterator[str]:
    """Lines of the input, until it ends, or the parent has ended and all lines were read."""
    left = b""
    while True:
        if not select.select([0], [], [], PARENT_LOOK_S)[0]:
            if os.getppid() != parent:
                return
            continue
        read = os.read(0, 65536)
        if not read:
            return
        *lines, left = (left + read).split(b"\n")
        yield from (line.decode() for line in lines)


def main() -> None:
    """Obeys orders until the end, and finishes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal that ends the run must not end this
    token, parent = sys.argv[1], int(sys.argv[2])
    folders: list[Path] = []
    for order in _orders(parent):
        what, _, argument = order.partition(" ")
        if what == "folder":
            folders.append(Path(argument))
        elif what == "stop":
            with contextlib.suppress(StopFailed):  # the end tries again, and reports it
                stop_marked(token)
        elif what == "end":
            break
    sys.exit(0 if finish(token, folders) else 1)


if __name__ == "__main__":
    main()
