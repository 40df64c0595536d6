"""Samples what a worker's threads do, for a flame graph.

How it works: a thread of its own looks at the stacks of all Python threads, about SAMPLES_PER_S
times per second, for as long as it was asked to. Each stack counts with the processor time that its
thread has used since the last look, so threads that wait count nothing, and the sum is the time
that the threads have used. A sampler inside the interpreter only sees stacks where the interpreter
lets it run. Between two looks a thread may have done several things; over thousands of looks that
evens out. C code is part of the Python function that calls it. Threads that never run Python, such
as librdkafka's, are not seen.

Nothing runs before or after a profile. A kernel other than Linux has no such clocks.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from types import CodeType, FrameType

SAMPLES_PER_S = 50
SECONDS_MAX = 300
DEPTH_MAX = 200  # frames of a stack; the outermost are left out
STACKS_MAX = 20_000  # different ones; of more, only the thread counts
NAME = "profiler"
_PER_THREAD_CPU_CLOCK = 6  # CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED

Stack = tuple[str, ...]  # the thread, then its functions, the outermost first


class ProfileError(Exception):
    """No profile can be made now; the text says why."""


class Profiler:
    """Makes one profile at a time, and keeps the last."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._found: Counter[Stack] | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, seconds: float) -> None:
        """Begin a profile of at most SECONDS_MAX; returns at once. Raises ProfileError."""
        if self.is_running:
            raise ProfileError("another profile is being made")
        if not sys.platform.startswith("linux"):
            raise ProfileError("only Linux has a clock for the processor time of each thread")
        self._found = None
        self._thread = threading.Thread(
            target=self._run, args=(min(seconds, SECONDS_MAX),), name=NAME, daemon=True
        )
        self._thread.start()

    def result(self) -> dict[Stack, int] | None:
        """CPU time in ns by stack; None while a profile is being made, and before the first."""
        return None if self.is_running else self._found

    def _run(self, seconds: float) -> None:
        found: Counter[Stack] = Counter()
        names: dict[CodeType, str] = {}
        used: dict[int, int] = {}
        end = time.monotonic() + seconds
        _look(found, names, used)
        found.clear()  # what the threads used before the beginning
        while time.monotonic() < end:
            time.sleep(random.uniform(0.5, 1.5) / SAMPLES_PER_S)  # never in step with a loop
            _look(found, names, used)
        self._found = found


def _look(found: Counter[Stack], names: dict[CodeType, str], used: dict[int, int]) -> None:
    """Add what each thread has used since the last look, to its present stack."""
    frames = sys._current_frames()  # noqa: SLF001  (documented, and the only way)
    for thread in threading.enumerate():
        frame, native_id = frames.get(thread.ident or 0), thread.native_id
        if frame is None or native_id is None or thread.name == NAME:
            continue
        try:
            now_ns = time.clock_gettime_ns(_clock_of(native_id))
        except OSError:  # the thread has ended
            continue
        spent, used[native_id] = now_ns - used.get(native_id, 0), now_ns
        if spent > 0:
            stack = (thread.name, *_functions(frame, names))
            if stack not in found and len(found) >= STACKS_MAX:
                stack = (thread.name,)
            found[stack] += spent


def _functions(frame: FrameType, names: dict[CodeType, str]) -> list[str]:
    made: list[str] = []
    at: FrameType | None = frame
    while at is not None and len(made) < DEPTH_MAX:
        code = at.f_code
        if code not in names:
            names[code] = f"{at.f_globals.get('__name__', '?')}.{code.co_qualname}"
        made.append(names[code])
        at = at.f_back
    made.reverse()
    return made


def _clock_of(native_id: int) -> int:
    """Linux' clock of a thread's CPU time.

    `time.pthread_getcpuclockid` gives the same number, but it must not be asked about a thread that
    has just ended; the kernel may.
    """
    return (~native_id << 3) | _PER_THREAD_CPU_CLOCK
