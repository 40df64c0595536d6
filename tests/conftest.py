"""Owns what the tests start. What several of them share stands in tests/support/."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from readstates.ops.local.owner import Owner


@pytest.fixture(scope="session", autouse=True)
def owner() -> Iterator[Owner]:
    """Whatever a test starts ends with the tests at the latest, also where they are killed."""
    with Owner("read-states-tests-") as run:
        yield run
