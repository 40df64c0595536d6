"""How busy the machine is, and with whose work, from /proc; on systems without it nothing is said.

A time on a busy machine is mostly the wait for a processor, so each stretch of the demo says both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

IDLE, IOWAIT = 3, 4  # fields of the first line of /proc/stat
UTIME, STIME = 11, 12  # fields of /proc/PID/stat behind the name


@dataclass(frozen=True)
class Busy:
    """Shares of all processors, 0 … 1, over some time."""

    share: float  # of everything that runs on the machine
    own: Mapping[str, float]  # of the demo's own processes, by name

    @property
    def others(self) -> float:
        """The share of programs that are not the demo's."""
        return max(0.0, self.share - sum(self.own.values()))

    def __str__(self) -> str:
        return f"machine {self.share:.0%} busy"

    def shares(self) -> str:
        """Whose work it is: what each of the demo's processes uses, and all other programs."""
        named = {**self.own, "other programs": self.others}
        return ", ".join(f"{name} {share:.0%}" for name, share in named.items())


class Machine:
    """Measures from the moment it is made, or from `begin`. `pids`: processes by name."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self.begin()

    def add(self, name: str, pid: int) -> None:
        """One more process; counts from the next `begin`."""
        self._pids[name] = pid

    def begin(self) -> None:
        """Measure from now on."""
        self._before = _ticks()
        self._own_before = self._own()

    def busy(self) -> Busy | None:
        """What was done since; None where the system does not say it."""
        now = _ticks()
        if now is None or self._before is None:
            return None
        idle, total = (after - before for after, before in zip(now, self._before, strict=True))
        if total <= 0:
            return None
        own = {n: (t - self._own_before[n]) / total for n, t in self._own().items()}
        return Busy(1 - idle / total, own)

    def _own(self) -> dict[str, int]:
        return {name: _ticks_of(pid) for name, pid in self._pids.items()}


def _ticks() -> tuple[int, int] | None:
    """(idle, all) clock ticks of all processors since the machine started."""
    try:
        line = Path("/proc/stat").read_text("ascii").splitlines()[0]
    except OSError:
        return None
    fields = [int(field) for field in line.split()[1:9]]  # those behind are in user's already
    return fields[IDLE] + fields[IOWAIT], sum(fields)


def _ticks_of(pid: int) -> int:
    """Clock ticks that a process has used, in all of its threads; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return int(fields[UTIME]) + int(fields[STIME])


def load() -> str:
    """The load average of the last minute, beside the number of processors."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
