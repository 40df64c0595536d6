"""A service whose worker has no check but the probe (`only_probe.py`), and what its probe finds."""

from __future__ import annotations

import itertools
from pathlib import Path

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess

from .preloaded import PreloadedWorker
from .service import Service
from .waiting import WAIT_S, until
from .wire import PARTITIONS

INTERVAL_S = 0.5
FIND_S = 2 * WAIT_S  # no answer is one after 7 s, and it takes three of them
ANSWERS = "read_states_probe_seconds_count{partition=%d}"
FAILURES = "read_states_probe_failures_total{partition=%d}"

_names = (f"probed{n}" for n in itertools.count())


def new_service(stack: Stack, folder: Path) -> Service:
    """A service without a worker."""
    return Service(stack.env(), folder, next(_names), probe_interval_s=INTERVAL_S)


def start(stack: Stack, folder: Path, **settings: object) -> Service:
    """A service with one worker that has no check but the probe. Does not wait for it."""
    made = new_service(stack, folder)
    env = {**made.env, **{name: str(value) for name, value in settings.items()}}
    log = folder / f"{made.name}.log"
    made.workers.append(PreloadedWorker(env, log, module="tests.support.only_probe").start())
    return made


def by_partition(worker: WorkerProcess, name: str) -> list[float]:
    found = worker.metrics()
    return [found.get(name % number, 0.0) for number in range(PARTITIONS)]


def wait_answered(worker: WorkerProcess) -> None:
    """Until each partition has answered three probes more."""
    before = by_partition(worker, ANSWERS)

    def all_more() -> bool:
        now = by_partition(worker, ANSWERS)
        return all(count >= then + 3 for count, then in zip(now, before, strict=True))

    until(all_more, "three answers of each partition", FIND_S)


def found(worker: WorkerProcess) -> str:
    """What /readyz says once the probe has failed."""

    def look() -> str | None:
        status, text = worker.get("/readyz")
        return text if status == 503 and "probes fail" in text else None

    text = until(look, "the probe fails", FIND_S)
    assert "probe_failed topic=" in worker.output()
    assert sum(by_partition(worker, FAILURES)) > 0
    return text


def wait_mended(worker: WorkerProcess) -> None:
    until(lambda: worker.get("/readyz")[0] == 200, "the worker is ready again", FIND_S)
    wait_answered(worker)
