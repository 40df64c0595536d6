"""A worker whose clock is wrong: what Python takes for the time of day is shifted.

CLOCK_AHEAD_S says by how many seconds; below 0: the clock is behind.
"""

from __future__ import annotations

import os
import time

from readstates.streams.cli import main

DEFAULT_AHEAD_S = "8"
AHEAD_NS = int(float(os.environ.get("CLOCK_AHEAD_S", DEFAULT_AHEAD_S)) * 1e9)
_true_ns = time.time_ns


def _wrong_ns() -> int:
    return _true_ns() + AHEAD_NS


if __name__ == "__main__":
    vars(time).update(time_ns=_wrong_ns, time=lambda: _wrong_ns() / 1e9)
    main()
