"""A worker with a leak: a library that keeps lists, and goes on making them.

What CPython's collector must go through then, again and again, stops the worker; the memory that is
kept brings it near its limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from readstates.streams.cli import main

AT_ONCE = 10_000
KEPT = 500  # blocks of AT_ONCE lists: 430 MiB, and a full collection takes 200 to 250 ms
PAUSE_S = 0.02


def _leak() -> None:
    """New lists all the time; a block is freed as a whole.

    Freed one by one, they would balance the new ones in the collector's count, and once KEPT is
    reached it would see no reason to run. By the block, one runs every three seconds or so.
    """
    kept: deque[list[list[None]]] = deque(maxlen=KEPT)
    while True:
        kept.append([[None] for _ in range(AT_ONCE)])
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    threading.Thread(target=_leak, daemon=True).start()
    main()
