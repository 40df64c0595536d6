"""A curve of the graph stands still while the other one runs; its own time stands still with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from readstates.ops.bench import graph_curve
from readstates.ops.bench.graph_curve import CROWD_TICKS, TICK_S, WALL_MS, Curve
from readstates.streams.partition.partition import Partition

STILL_S = 1000.0
RUN_S = CROWD_TICKS * TICK_S  # ends with a crowd: more than one step of the fold


@pytest.mark.parametrize("kind", ["ours", "heap"])
def test_standing_still_takes_no_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jump_s, told_ms = graph_curve.clock, 0.0, list[int]()
    monkeypatch.setattr(graph_curve, "clock", lambda: real() + jump_s)
    run = Partition.run

    def noted(partition: Partition, limit: int, now_ms: int, ahead_ms: int = 0) -> int:
        told_ms.append(now_ms - WALL_MS)
        return run(partition, limit, now_ms, ahead_ms)

    monkeypatch.setattr(Partition, "run", noted)
    curve = Curve(kind, 20_000, 30.0, tmp_path)
    try:
        curve.fill()
        curve.run(RUN_S)
        jump_s = STILL_S
        curve.run(RUN_S)
    finally:
        for task in curve.tasks:
            task.cancel()
        curve.loop.run_until_complete(asyncio.gather(*curve.tasks, return_exceptions=True))
        curve.loop.close()
        asyncio.set_event_loop(None)
    assert told_ms
    assert max(told_ms) < 1000 * STILL_S
