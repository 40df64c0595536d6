"""Keeps two threads from working on one partition at the same time.

The event loop does all work on a partition, except that the thread that reads queries answers those
that need nothing else. Both enter here first, so that a reply's rows and its position belong
together (Q3), whether the table is compiled or not, and wherever the interpreter switches threads.
"""

from __future__ import annotations

import threading
from typing import Self

from ..priorities import OTHER


class Exclusive:
    """`with exclusive(FOLD):` on the event loop; a thread calls `enter_if_free` or `enter`.

    `work` says for what the event loop entered last (`priorities.py`). It is not reentrant.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.work = OTHER
        self.enter, self.leave = self._lock.acquire, self._lock.release

    def enter_if_free(self) -> bool:
        """False if another thread is at work."""
        return self._lock.acquire(blocking=False)

    def __call__(self, work: str) -> Self:
        self.work = work
        return self

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
