"""Readers that are closed at the end, and whose pauses are short."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from readstates.streams.kafka import fetch_link, fetches, leaders, reader
from tests.support.reader_world import World


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(*args: object, **kwargs: object) -> World:
        made.append(World(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "RETRY_S", 0.01)
    monkeypatch.setattr(reader, "DAMAGED_PAUSE_S", 0.005)
    monkeypatch.setattr(leaders, "PAUSE_MIN_S", 0.01)
    monkeypatch.setattr(leaders, "PAUSE_MAX_S", 0.05)
    monkeypatch.setattr(fetch_link, "PAUSE_MAX_S", 0.05)
