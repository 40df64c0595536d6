"""What a member of the group owns, and which of its owner's commands are still about that.

The group's thread learns of a change first, and tells the owner on the event loop. A command that
the owner gives meanwhile crosses the news on its way to the thread. So every change has a number,
and every command carries the number of the last change that the owner had heard of.

O1: a release counts only if the owner had heard of the revocation that is pending.
O2: a commit counts only for a partition whose ownership the owner had heard of, and which it has
    not released since.
O3: what is pending is let go all at once, when the last of it was released. librdkafka knows one
    release only, and joins the group again as the owner of nothing that was revoked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Set


class Ownership:
    """See the module. Only the group's thread uses it."""

    def __init__(self) -> None:
        self._changes = 0
        self._owned: dict[int, int] = {}  # the change that began each ownership
        self._pending: dict[int, int] = {}  # the change that revoked each partition
        self._released: set[int] = set()
        self._pending_since = 0.0  # time.monotonic()

    @property
    def owned(self) -> Set[int]:
        """Assigned partitions, with those that are revoked and not yet let go."""
        return self._owned.keys()

    @property
    def pending(self) -> Set[int]:
        """Revoked partitions that are not yet let go."""
        return self._pending.keys()

    def assign(self, numbers: Iterable[int]) -> int:
        """Returns the number of this change. What was pending stays with this member."""
        self._changes += 1
        for number in numbers:
            self._pending.pop(number, None)
            self._released.discard(number)
            self._owned[number] = self._changes
        return self._changes

    def revoke(self, numbers: Iterable[int]) -> int:
        """Returns the number of this change."""
        self._changes += 1
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.update((number, self._changes) for number in numbers)
        return self._changes

    def lose(self) -> tuple[int, Set[int]]:
        """Returns the number of this change, and the partitions that were owned until now."""
        self._changes += 1
        lost = frozenset(self._owned)
        for kept in (self._owned, self._pending, self._released):
            kept.clear()
        return self._changes, lost

    def release(self, numbers: Iterable[int], heard: int) -> None:
        """Note what the owner has handed over; `heard`: the last change that it had heard of."""
        for number in numbers:
            if heard >= self._pending.get(number, self._changes + 1):  # O1
                self._released.add(number)

    def may_let_go(self) -> bool:
        """True if something is pending, and all of it was released."""
        return bool(self._pending) and self._pending.keys() == self._released  # O3

    def let_go(self) -> None:
        """Forget what was pending."""
        for number in self._pending:
            self._owned.pop(number, None)
        self._pending.clear()
        self._released.clear()

    def may_commit(self, number: int, heard: int) -> bool:
        """True if a commit is about the present ownership; `heard`: as in `release`."""
        began = self._owned.get(number, self._changes + 1)
        return heard >= began and number not in self._released  # O2

    def pending_for_s(self) -> float:
        """How long the oldest revocation has been pending; 0 if none is."""
        return time.monotonic() - self._pending_since if self._pending else 0.0
