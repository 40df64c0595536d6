"""A worker in which the probe is the only check: what else would notice a fault is switched off.

CLOCK_AHEAD_S shifts its clock, as in `ops/drills/wrong_clock.py`.
"""

from __future__ import annotations

import asyncio
import os
import time

from readstates.streams.cli import main
from readstates.streams.kafka.broker_clocks import BrokerClocks
from readstates.streams.worker.watch import Watch

AHEAD_NS = int(float(os.environ.get("CLOCK_AHEAD_S", "0")) * 1e9)
_true_ns = time.time_ns


def _wrong_ns() -> int:
    return _true_ns() + AHEAD_NS


def _not_corrected(self: BrokerClocks, number: int) -> int:
    return 0


async def _does_not_look(self: Watch) -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    vars(time).update(time_ns=_wrong_ns, time=lambda: _wrong_ns() / 1e9)
    BrokerClocks.ahead_ms = _not_corrected  # type: ignore[method-assign]
    Watch.run = _does_not_look  # type: ignore[method-assign]
    main()
