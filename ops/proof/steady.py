"""A steady load: a thread that does what became due since, until it is told to finish."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod


class Steady(threading.Thread, ABC):
    """Calls `tick` every `tick_s`, with how many units of work became due since.

    `due_max`: the most at once; after a stall the rest is left out, so that the rate stays. Without
    it nothing is left out, as an open loop must have it. What `tick` raises is raised by `finish`.
    """

    def __init__(self, per_second: float, tick_s: float, due_max: int | None = None) -> None:
        super().__init__(daemon=True)
        self._per_second = per_second
        self._tick_s = tick_s
        self._due_max = due_max
        self._finished = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            start, done = time.monotonic(), 0
            while not self._finished.wait(self._tick_s):
                due = int((time.monotonic() - start) * self._per_second) - done
                done += due
                self.tick(due if self._due_max is None else min(due, self._due_max))
        except BaseException as exc:  # noqa: BLE001 - whoever finishes the load fails with it
            self.failure = exc

    @abstractmethod
    def tick(self, due: int) -> None:
        """Do `due` units of work; 0 is nothing to do."""

    def finish(self) -> None:
        """Stop. Raises what ended the thread before."""
        self._finished.set()
        self.join()
        if self.failure is not None:
            raise self.failure
