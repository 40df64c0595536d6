"""One stack for all integration tests, and one service that most of them share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from tests.support.service import Make, Service
from tests.support.wire import Wire


@pytest.fixture(scope="session")
def stack(owner: Owner) -> Stack:
    """A real Kafka and a real Cassandra."""
    return owner.stack(brief=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs and table files of the workers."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def service(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service with one worker, ready."""
    made = Service(stack.env(), folder, "main", changes="on")
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


@pytest.fixture(scope="session")
def wire(service: Service) -> Wire:
    return service.wire
