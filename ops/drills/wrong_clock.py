"""A worker whose clock is wrong: what Python takes for the time of day is shifted.

CLOCK_AHEAD_S says by how many seconds; below 0: the clock is behind. If there is a file CLOCK_FILE,
the number in it counts instead. When another is written there, the clock jumps.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from readstates.streams.cli import main

DEFAULT_AHEAD_S = "8"
LOOK_S = 0.2
_true_ns = time.time_ns
_ahead_ns = int(float(os.environ.get("CLOCK_AHEAD_S", DEFAULT_AHEAD_S)) * 1e9)


def _wrong_ns() -> int:
    return _true_ns() + _ahead_ns


def _read() -> None:
    """Set the clock to what the file says; if that cannot be read, the clock stays as it is."""
    global _ahead_ns
    with contextlib.suppress(OSError, ValueError):
        _ahead_ns = int(float(Path(os.environ["CLOCK_FILE"]).read_text("utf-8")) * 1e9)


def _follow() -> None:
    while True:
        time.sleep(LOOK_S)
        _read()


if __name__ == "__main__":
    vars(time).update(time_ns=_wrong_ns, time=lambda: _wrong_ns() / 1e9)
    if "CLOCK_FILE" in os.environ:
        _read()
        threading.Thread(target=_follow, daemon=True).start()
    main()
