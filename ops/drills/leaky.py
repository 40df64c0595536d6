"""A worker with a leak: a library that keeps lists, and goes on making them.

What CPython's collector must go through then, again and again, stops the worker; the memory that is
kept brings it near its limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from readstates.streams.cli import main

KEPT = 3_000_000  # about 260 MiB
AT_ONCE = 5_000
PAUSE_S = 0.02


def _leak() -> None:
    kept: deque[list[object]] = deque(maxlen=KEPT)
    while True:
        kept.extend([None] for _ in range(AT_ONCE))
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    threading.Thread(target=_leak, daemon=True).start()
    main()
