"""Fixtures: a table in memory, in each build."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.table_builds import BUILDS, Build, new_buffer


@pytest.fixture(params=sorted(BUILDS))
def build(request: pytest.FixtureRequest) -> Build:
    """The table's modules, compiled or not."""
    return BUILDS[request.param]


@pytest.fixture
def table(build: Build) -> Iterator[Any]:
    """40 slots, at most 6 read states a user."""
    made = build.Table(new_buffer(41), 6)
    yield made
    made.close()
