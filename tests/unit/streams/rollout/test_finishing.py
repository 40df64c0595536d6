"""A rollout ends only when the live workers are new, and have committed all that was in the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from readstates.schemas.rollout import Candidate
from readstates.streams.config import Settings
from readstates.streams.errors import RolloutError
from readstates.streams.rollout import finishing
from readstates.streams.rollout.prometheus import Prometheus
from tests.support.prometheus import Asked, steady

STARTS, ENDS = [0, 5, 7], [100, 10, 7]
CANDIDATE = Candidate("new", 10_000, True, "0123456789abcdef")
NOW_S = 1_000_000.0


class Log:
    """`looks`: the commits that the group has at each look; the last ones stay."""

    def __init__(self, *looks: list[int]) -> None:
        self._looks = list(looks)

    def commits_of(self, _settings: Settings, _topic: str, _count: int) -> list[tuple[int, str]]:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return [(offset, "") for offset in look]

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        found = SimpleNamespace(topic=SimpleNamespace(partitions=3))
        patch.setattr(finishing, "connect_admin", lambda _settings: None)
        patch.setattr(finishing, "described", lambda _client, _name: found)
        patch.setattr(finishing, "log_offsets", lambda *_: (STARTS, ENDS, STARTS))
        patch.setattr(finishing, "commits_of", self.commits_of)
        patch.setattr(finishing, "POLL_S", 0.0)


def waited(timeout_s: float = 30.0) -> list[int]:
    """What was left at each look."""
    left: list[int] = []
    finishing.wait_for_commits(Settings(), timeout_s, left.append)
    return left


def test_it_waits_for_every_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition without a commit counts from its first offset; an empty one counts nothing."""
    Log([90, -1001, -1001], [100, 9, -1001], [120, 10, -1001]).put_in(monkeypatch)
    assert waited() == [15, 1, 0]


def test_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    Log([99, 10, 7]).put_in(monkeypatch)
    with pytest.raises(RolloutError, match="has not committed 1 records"):
        waited(0.01)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (steady("99"), ""),
        (steady("101"), "was started 101 s ago, before the last gates held"),
        (lambda *_times: [], "knows no live worker"),
    ],
)
def test_every_live_worker_must_be_newer(asked: Asked, answer: Any, error: str) -> None:
    asked.series[finishing.OLDEST_LIVE.strip()] = answer
    noted = CANDIDATE._replace(finishing_ms=int((NOW_S - 100) * 1000))
    if error:
        with pytest.raises(RolloutError, match=error):
            finishing.refuse_old_workers(Prometheus(asked.url), noted, NOW_S)
    else:
        finishing.refuse_old_workers(Prometheus(asked.url), noted, NOW_S)
