"""What the consumer group refuses, on a real broker: the worker must end and say so, or come back.

A worker that stayed alive without partitions would serve nobody, and nobody would hear of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until


@pytest.fixture
def service(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    name = request.node.name.removeprefix("test_").replace("[", "").replace("]", "")[:40]
    service = Service(stack.env(), folder, name)
    yield service
    service.close()


def ends(worker: WorkerProcess, status: int = 1) -> str:
    """What a worker says that ends by itself, with an error."""
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == status
    return worker.output()


def test_a_session_timeout_the_brokers_refuse(service: Service) -> None:
    said = ends(service.start(session_timeout_s=5.5))
    assert "SESSION_TIMEOUT_S is outside what the brokers allow" in said


def test_two_with_the_same_name(service: Service) -> None:
    """They would take each other's place for ever; whoever notices first ends, or both do."""
    first = service.start(instance_id="twin")
    first.wait_ready()
    second = service.start(instance_id="twin")
    until(
        lambda: first.returncode is not None or second.returncode is not None,
        "one of them ends",
        2 * WAIT_S,
    )
    loser = second if first.returncode is None else first
    assert "another process is using the INSTANCE_ID 'twin'" in ends(loser, status=2)
