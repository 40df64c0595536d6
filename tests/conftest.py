"""Owns what the tests start. What several of them share stands in tests/support/.

If the tests run in several processes (pytest-xdist), each of these has an owner, and so has the
process that hands out the tests: it owns the servers that all of them share.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.owner import Owner

PREFIX = "read-states-tests-"
OF_ALL = pytest.StashKey[Owner]()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") != "no":  # this process hands out the tests
        config.stash[OF_ALL] = Owner(PREFIX).__enter__()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """What a process that runs tests is told."""
    node.workerinput["shared_folder"] = str(node.config.stash[OF_ALL].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if OF_ALL in config.stash:
        config.stash[OF_ALL].__exit__(None, None, None)


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest) -> Path | None:
    """The folder of the owner of all; None if one process runs all tests."""
    told: dict[str, str] = getattr(request.config, "workerinput", {})
    return Path(told["shared_folder"]) if told else None


@pytest.fixture(scope="session", autouse=True)
def owner() -> Iterator[Owner]:
    """Whatever a test starts ends with the tests at the latest, also where they are killed."""
    with Owner(PREFIX) as run:
        yield run
