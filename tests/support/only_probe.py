"""A worker in which the probe is the only check: what else would notice a fault is switched off.

CLOCK_AHEAD_S shifts its clock, as in `ops/drills/wrong_clock.py`.
"""

from __future__ import annotations

import os
import time

from readstates.streams.cli import main
from readstates.streams.kafka.broker_clocks import BrokerClocks

AHEAD_NS = int(float(os.environ.get("CLOCK_AHEAD_S", "0")) * 1e9)
_true_ns = time.time_ns


def _wrong_ns() -> int:
    return _true_ns() + AHEAD_NS


def _not_corrected(self: BrokerClocks, number: int) -> int:
    return 0


if __name__ == "__main__":
    vars(time).update(time_ns=_wrong_ns, time=lambda: _wrong_ns() / 1e9)
    BrokerClocks.ahead_ms = _not_corrected  # type: ignore[method-assign]
    main()
