"""A worker whose probe hangs, as a thread does that waits for a broken library.

It counts as stuck after STUCK_AFTER_S, because all times of a drill are shorter than in reality.
"""

from __future__ import annotations

import threading
import time

from readstates.streams.cli import main
from readstates.streams.kafka.prober import Prober, Taken
from readstates.streams.worker import probe

HANGS_AFTER_S, STUCK_AFTER_S = 5.0, 4.0

_take = Prober.take
_began = time.monotonic()


def _hang(self: Prober, timeout_s: float) -> list[Taken]:
    if time.monotonic() - _began > HANGS_AFTER_S:
        threading.Event().wait()
    return _take(self, timeout_s)


if __name__ == "__main__":
    probe.SILENT_MAX_S = STUCK_AFTER_S
    Prober.take = _hang  # type: ignore[method-assign]
    main()
