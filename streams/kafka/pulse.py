"""Shows that a thread or a loop of the worker still moves.

A thread that raises an error ends the worker (`faust_app.py`). One that hangs raises nothing, and
other threads go on as if all were well. So each thread, and each endless loop, beats at every turn,
and `worker/pulses.py` looks how long the last beat is ago.
"""

from __future__ import annotations

import time


class Pulse:
    """The last sign of life of one thread or loop. `beat` costs 0.1 µs.

    `name`: of the thread or loop, in the metric and the log. `silent_max_s`: longer than a turn can
    last while servers do not answer. `is_vital`: without it the worker serves nobody, and no server
    can hold it up; then a restart is the only cure.
    """

    def __init__(self, name: str, silent_max_s: float, *, is_vital: bool = False) -> None:
        self.name, self.silent_max_s, self.is_vital = name, silent_max_s, is_vital
        self._beat_at: float | None = None  # time.monotonic(); None before the start

    def beat(self) -> None:
        """Call this at every turn, in the thread or loop itself."""
        self._beat_at = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the last turn; 0 before the first one. Any thread may ask."""
        beat_at = self._beat_at
        return 0.0 if beat_at is None else max(0.0, time.monotonic() - beat_at)

    @property
    def is_stuck(self) -> bool:
        """True if the last turn is too long ago."""
        return self.silent_s() > self.silent_max_s
