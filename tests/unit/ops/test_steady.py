"""A steady load keeps its rate, says how much is due, and does not hide its failures."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from readstates.ops.proof.steady import Steady


class Counting(Steady):
    """Counts what was due; its first tick takes long, as in a stall."""

    def __init__(self, **more: Any) -> None:
        super().__init__(1000, 0.001, **more)
        self.dues: list[int] = []
        self.enough = threading.Event()

    def tick(self, due: int) -> None:
        if not self.dues:
            threading.Event().wait(0.2)
        self.dues.append(due)
        if len(self.dues) == 20:
            self.enough.set()


@pytest.mark.parametrize("due_max", [None, 5])
def test_after_a_stall(due_max: int | None) -> None:
    load = Counting(due_max=due_max)
    load.start()
    assert load.enough.wait(30)
    load.finish()
    most = max(load.dues[1:])
    assert most <= 5 if due_max else most >= 150, "an open loop leaves nothing out"


def test_finish_raises_what_ended_it() -> None:
    class Failing(Steady):
        def tick(self, due: int) -> None:
            raise ValueError(due)

    load = Failing(1.0, 0.001)
    load.start()
    load.join(30)
    with pytest.raises(ValueError, match="0"):
        load.finish()
