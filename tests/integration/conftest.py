"""One stack for all integration tests, and one service that most of them share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from tests.support.rollout import CandidateOf, MakeCandidate
from tests.support.service import Make, Service
from tests.support.wire import Wire

PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "")  # which of those that share the stack this is


@pytest.fixture(scope="session")
def stack(owner: Owner, shared_folder: Path | None) -> Stack:
    """A real Kafka and a real Cassandra, which all processes that run tests share."""
    return owner.stack(brief=True, outer=shared_folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs and table files of the workers."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def service(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service with one worker, ready."""
    made = Service(stack.env(), folder, f"main{PROCESS}", changes="on")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


@pytest.fixture
def services(stack: Stack, folder: Path) -> Iterator[Make]:
    """Makes services of a test's own, which end with it."""
    made: list[Service] = []

    def make(name: str, **settings: Any) -> Service:
        made.append(Service(stack.env(), folder, name, **settings))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def candidates() -> Iterator[MakeCandidate]:
    """Makes candidates of services."""
    made: list[CandidateOf] = []

    def make(service: Service, name: str) -> CandidateOf:
        made.append(CandidateOf(service, name))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def wire(service: Service) -> Wire:
    return service.wire
