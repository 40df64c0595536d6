"""While one table is opened, the process' other threads go on: they serve the open partitions."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.cache import layout, slots, table
from readstates.cache.tablefile import open_table
from tests.support.table_builds import IDENTITY

STATES = 20_000
PER_TURN = 1024  # slots that a pass sees before it gives way
PASSES_MIN = 10  # through the slots: a rebuild, a verification and what follows them
TRIES = 10**6


@pytest.fixture
def long_turns() -> Iterator[None]:
    """The interpreter takes the lock from no thread; one has to give it back."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("long_turns")
def test_to_give_way_lets_another_thread_run() -> None:
    begin, ran = threading.Lock(), threading.Event()
    begin.acquire()

    def other() -> None:
        with begin:
            ran.set()

    thread = threading.Thread(target=other)
    thread.start()
    begin.release()
    for _ in range(TRIES):
        slots.give_way()
        if ran.is_set():
            break
    has_run = ran.is_set()
    thread.join()
    assert has_run


def test_a_table_that_is_opened_gives_way_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    file = open_table(path, IDENTITY, STATES, 50)
    for user_id in range(1, STATES // 2):
        file.table.ack(file.table.insert(user_id, 0, False), 0, 1, 10, -1, -1, user_id)
    file.close(clean=False)
    content = bytearray(path.read_bytes())
    content[layout.AT_LEFT] = layout.IN_USE
    path.write_bytes(content)
    turns = itertools.count()
    for module in (slots, table):
        monkeypatch.setattr(module, "give_way", lambda: next(turns))
    file = open_table(path, IDENTITY, STATES, 50)
    file.table.recover(1)
    assert "rebuilt" in file.why
    assert next(turns) > PASSES_MIN * STATES // PER_TURN
    file.close(clean=False)
