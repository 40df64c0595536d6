"""The database of all workers, and the store through which one of them reaches it.

Rows are kept by write timestamp, as Cassandra does: the larger one wins, whatever comes last; a
deletion of a user hides rows that are older than its version. A batch is not atomic: the changes of
one user are, those of another come at another moment, or never.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from readstates.schemas.read_state import Row

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

Key = tuple[int, int]  # read_state_type, channel_id
Change = tuple[int, int, Row | None]  # as Store.write takes it


class Database:
    """Rows by user and key, each with its write timestamp; None is a deletion."""

    def __init__(self) -> None:
        self.cells: dict[int, dict[Key, tuple[int, Row | None]]] = {}
        self.deleted: dict[int, int] = {}
        self.newest: dict[int, int] = {}  # of a user, by anyone …
        self.newest_foreign: dict[int, int] = {}  # … and by one who did not own its partition

    def apply(self, user_id: int, changes: list[Change], owner: bool) -> None:
        """The changes of one user, all at once."""
        cells = self.cells.setdefault(user_id, {})
        for _, version, row in changes:
            stamp = abs(version)
            self.newest[user_id] = max(stamp, self.newest.get(user_id, 0))
            if not owner:
                self.newest_foreign[user_id] = max(stamp, self.newest_foreign.get(user_id, 0))
            if row is None:
                self.deleted[user_id] = max(stamp, self.deleted.get(user_id, 0))
            elif stamp > cells.get(row[:2], (0, None))[0]:
                cells[row[:2]] = (stamp, row if version > 0 else None)

    def read(self, user_id: int) -> list[Row]:
        """What a SELECT of the user gives."""
        low = self.deleted.get(user_id, 0)
        cells = self.cells.get(user_id, {}).values()
        return sorted(row for stamp, row in cells if row is not None and stamp >= low)

    def cell(self, user_id: int, key: Key) -> tuple[int, Row | None]:
        """The newest write that a read state has seen, and what a SELECT gives of it."""
        low = self.deleted.get(user_id, 0)
        stamp, row = self.cells.get(user_id, {}).get(key, (0, None))
        return (stamp, row) if stamp >= low else (low, None)


class Store:
    """What a worker sees: `load` and `write`, each answered once, on its loop, or too late."""

    def __init__(self, world: World, worker: Worker) -> None:
        self._world = world
        self._worker = worker

    def group_of(self, user_id: int) -> object:
        """Two nodes, each of them the first replica of half of the users."""
        return user_id & 1

    def expire(self) -> None:
        """Each request has its own time-out here."""

    def load(
        self, user_ids: list[int], done: Callable[[dict[int, list[Row]] | None], None]
    ) -> None:
        """As readstates.streams.cassandra.Store.load."""
        self._worker.may_die()
        world = self._world
        answer = self._request(done)
        fails = world.down or world.chance(world.plan.load_fails)
        found: dict[int, list[Row]] = {}

        def read(user_id: int) -> None:
            found[user_id] = world.live.read(self._worker, user_id)

        last = 0.0
        for user_id in user_ids:
            last = max(last, self._at(read, user_id))
        if world.chance(world.plan.late_answers):  # old rows, when much has happened since
            last += world.plan.settings.cassandra_timeout_s * world.noise.random()
        world.clock.later(last + world.delay(), lambda: answer(None if fails else found))

    def write(self, changes: list[Change], done: Callable[[bool | None], None]) -> None:
        """As readstates.streams.cassandra.Store.write."""
        self._worker.may_die()
        world = self._world
        answer = self._request(done)
        down = world.down or world.clock.now < world.read_only_until
        fails = down or world.chance(world.plan.write_fails)
        lost = down or world.noise.random() < 0.5  # of failed ones: never applied
        by_user: dict[int, list[Change]] = {}
        for change in changes:
            by_user.setdefault(change[0], []).append(change)
        last = 0.0
        for user_id, some in by_user.items():
            if fails and (lost or world.noise.random() < 0.3):
                continue
            owner = world.group.owns(self._worker, world.partition_of(user_id))
            late = fails and world.noise.random() < 0.5  # applied after it was given up
            more = world.plan.settings.cassandra_timeout_s * 2 * world.noise.random()
            last = max(last, self._at(world.database.apply, user_id, some, owner, more * late))
        if fails and world.noise.random() < 0.5:
            return  # it times out
        world.clock.later(last + world.delay(), lambda: answer(None if fails else True))
        self._worker.may_die()

    def _request(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        loop = self._worker.loop
        waiting = [done]

        def answer(result: Any) -> None:
            if waiting and not loop.dead:
                loop.call_soon(waiting.pop(), result)

        self._world.clock.later(self._world.plan.settings.cassandra_timeout_s, lambda: answer(None))
        return answer

    def _at(self, what: Callable[..., None], user_id: int, *args: Any) -> float:
        """Do it for one user after a while; returns how long that is."""
        more = args[-1] if args else 0.0
        delay = float(self._world.delay() + more)
        self._world.clock.later(delay, lambda: what(user_id, *args[:-1]))
        return delay
