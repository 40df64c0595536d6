"""A worker whose clock is wrong answers by the brokers' clock, and says that its own is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.preloaded import PreloadedWorker
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user

DAY_S = 86_400
EXPIRED = "read_states_queries_total{outcome=expired}"
NO_ADDRESS = "read_states_queries_total{outcome=no_reply_address}"
OFFSET = "read_states_clock_offset_seconds{partition=%d}"


@pytest.fixture(scope="module")
def service_of_ours(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "clocks")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def clocks(service_of_ours: Service) -> Iterator[Service]:
    """A service without workers; `start` below starts one, which ends with the test."""
    yield service_of_ours
    while service_of_ours.workers:
        service_of_ours.workers.pop().stop()


def start(service: Service, ahead_s: float, **more: str) -> WorkerProcess:
    """A worker whose clock is that much ahead."""
    log = service.folder / f"clocks-{ahead_s:g}.log"
    env = {**service.env, "CLOCK_AHEAD_S": str(ahead_s), **more}
    worker = PreloadedWorker(env, log, module="readstates.ops.drills.wrong_clock").start()
    service.workers.append(worker)
    worker.wait_ready()
    return worker


def offsets(worker: WorkerProcess) -> list[float]:
    """The offset of each partition, once all are measured."""

    def measured() -> list[float] | None:
        found = worker.metrics()
        known = [found[OFFSET % n] for n in range(PARTITIONS) if OFFSET % n in found]
        return known if len(known) == PARTITIONS else None

    return until(measured, "an offset of each partition")


@pytest.mark.parametrize("ahead_s", [8, 30 * DAY_S, -8, -30 * DAY_S])
def test_everybody_is_answered(clocks: Service, ahead_s: float) -> None:
    worker, wire = start(clocks, ahead_s), clocks.wire
    for partition in range(PARTITIONS):
        user = new_user(partition)
        for deadline_s in (None, 20):  # the default, by the broker's clock; one by our own clock
            reply = wire.query(user, deadline_s=deadline_s)
            assert reply is not None
            assert reply.error is None
    assert clocks.metric(EXPIRED) == 0
    assert clocks.metric(NO_ADDRESS) == 0
    found = offsets(worker)
    print(f"ahead {ahead_s}: {found}")
    for offset in found:  # measured, so not exact; never more than it is
        assert 0.5 < offset / ahead_s <= 1.01
    line = until(
        lambda: [x for x in worker.output().splitlines() if "clock_offset" in x], "a log line"
    )[0]
    assert f"topic={wire.queries} partition=" in line


@pytest.mark.parametrize("ahead_s", [8, -8])
def test_whose_time_is_over_is_not_answered(clocks: Service, ahead_s: float) -> None:
    """The query is as old as the broker says: 6 s, of 5 s that it has."""
    wire, user = clocks.wire, new_user()
    asked = wire.ask(user)
    time.sleep(6)
    worker = start(clocks, ahead_s)
    reply = wire.query(user)
    assert reply is not None
    assert clocks.metric(EXPIRED) == 1
    assert wire.wait(asked, 0.1) is None
    (line,) = (x for x in worker.output().splitlines() if "queries_expired" in x)
    assert "count=1 " in line
    assert "given_ms=5000" in line


def test_a_clock_that_jumps(clocks: Service, tmp_path: Path) -> None:
    """While the worker runs: everybody is answered, and nothing needs a restart."""
    file = tmp_path / "clock"
    worker = start(clocks, 0, CLOCK_FILE=str(file))
    for ahead_s in (8, -8, 0):
        file.write_text(str(ahead_s), "utf-8")

        def is_shown(ahead_s: int = ahead_s) -> bool:
            return all(abs(offset - ahead_s) < 1 for offset in offsets(worker))

        until(is_shown, f"an offset of {ahead_s} s")
        for partition in range(PARTITIONS):
            reply = clocks.wire.query(new_user(partition))
            assert reply is not None
            assert reply.error is None
    assert clocks.metric(EXPIRED) == 0


def test_a_right_clock_is_not_corrected(clocks: Service) -> None:
    worker = start(clocks, 0)
    assert clocks.wire.query(new_user()) is not None
    found = offsets(worker)
    assert found == [0] * PARTITIONS
    assert "clock_offset" not in worker.output()
