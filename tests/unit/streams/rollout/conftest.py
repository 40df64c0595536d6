"""What the tests of a rollout's commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.schemas.rollout import Candidate
from tests.support.prometheus import Asked, prometheus
from tests.support.rollout_topic import Topic
from tests.support.rollout_world import World, Worlds


@pytest.fixture
def asked() -> Iterator[Asked]:
    """A Prometheus that answers what the test says."""
    with prometheus() as made:
        yield made


@pytest.fixture
def worlds(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worlds:
    """Makes worlds, each with its candidate."""

    def make(one: Candidate) -> World:
        topic = Topic(one)
        topic.put_in(monkeypatch)
        return World(tmp_path, asked, topic)

    return make
