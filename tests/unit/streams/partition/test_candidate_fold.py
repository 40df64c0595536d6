"""A candidate's partition is the fold of its log, too, wherever the live workers are: seeded.

As in test_fold_of_the_log.py, but the rows come from two tables. The base is what live workers have
written: they may be behind the candidate, or ahead of it. What the candidate writes is the overlay.
The live workers never delete in advance what the candidate still has to show: of that it may know
nothing (`cassandra/overlay.py`).
"""

from __future__ import annotations

from typing import Any

from readstates.schemas.read_state import Row
from readstates.schemas.version import offset_of
from readstates.streams.cassandra.overlay import ALL_DELETED, Overlaid, merged
from tests.support.small_world import version
from tests.support.table_builds import verify
from tests.unit.streams.partition.test_fold_of_the_log import STATES_MAX, FaultyWorld

SEEDS = 30
MARK = (ALL_DELETED, 0)
Key = tuple[int, int]


class TwoTables:
    """As `Database` of the small world: what a candidate's store reads and writes."""

    def __init__(self, world: CandidateWorld) -> None:
        self._world = world
        self._overlay: dict[int, dict[Key, Overlaid]] = {}

    def write(self, changes: list[Any]) -> None:
        for user_id, stamp, row in changes:
            rows = self._overlay.setdefault(user_id, {})
            if row is None:
                self._put(rows, Overlaid(MARK, stamp, None))
            else:
                self._put(rows, Overlaid(row[:2], abs(stamp), row if stamp > 0 else None))

    def _put(self, rows: dict[Key, Overlaid], one: Overlaid) -> None:
        """The later timestamp wins; the deletion of a user removes the rows that are older."""
        if one.version >= rows.get(one.key, Overlaid(one.key, 0, None)).version:
            rows[one.key] = one
        deleted = rows[MARK].version if MARK in rows else 0
        for key in [key for key, each in rows.items() if each.version < deleted]:
            del rows[key]

    def read(self, user_id: int) -> list[Row]:
        return self.merged_with(user_id, self._world.base_rows(user_id))

    def merged_with(self, user_id: int, base: list[Row]) -> list[Row]:
        return merged(base, list(self._overlay.get(user_id, {}).values()))

    def version(self, user_id: int, key: Key) -> int:
        """The newest write of a read state: the base has all of the live workers' commits."""
        rows = self._overlay.get(user_id, {})
        written = [rows[one].version for one in (key, MARK) if one in rows]
        return max(version(self._world.base - 1), *written, 0)


class CandidateWorld(FaultyWorld):
    """Begins in the middle of the log, where the live workers' commit was."""

    def __init__(self, seed: int) -> None:
        self.base, self.pace = 0, 0.0
        super().__init__(seed)
        self.begin = self.random.choice(self.log.records).offset
        self.base = self.begin
        self.pace = self.random.choice((0, 0.01, 0.03, 0.2))  # of the live workers
        self.db: Any = TwoTables(self)
        self.committed = self.checked = self.fed = self.begin
        self.next = sum(one.offset < self.begin for one in self.log.records)
        self.partition.table.close()
        self.open(
            self.slots,
            STATES_MAX,
            parked_max=20,
            inbox_max=50,
            ids=self.log.ids,
            position=self.begin,
            committed=self.begin,
            catch_up_to=self.begin,
        )

    def open(self, slots: int, states_max: int, died: bytearray | None = None, **more: Any) -> None:
        super().open(slots, states_max, died, **more, is_candidate=True)
        progress, newest = self.partition.progress, self.partition.table.newest()
        if newest:  # as `opening.py` does (R5)
            progress.catch_up_to = max(progress.catch_up_to, offset_of(newest) + 1)

    def step(self) -> None:
        if self.random.random() < self.pace:  # the live workers have written more
            self.base = min(self.log.end, self.base + self.random.randint(0, 40))
        super().step()

    def base_rows(self, user_id: int) -> list[Row]:
        """What the live workers have written, as far as it does not lack what is to be shown."""
        position = self.partition.position
        rows = self.log.rows_at(user_id, min(self.base, position))
        offsets, states = self.log.history.get(user_id, ([], []))
        for offset, after in zip(offsets, states, strict=True):
            if position <= offset < self.base:
                if {row[:2] for row in rows} - {row[:2] for row in after}:
                    break
                rows = after
        self.ahead += len(self.partition.loading.ahead)
        return sorted(rows)

    ahead = 0  # users who were not to be answered yet, summed over the loads


def play(seed: int) -> tuple[int, int]:
    """One world from beginning to end; how many tables were used again, and `ahead`."""
    world = CandidateWorld(seed)
    for _ in range(600):
        world.step()
    world.drain()
    world.commit()
    assert world.committed == world.log.end
    assert not list(world.partition.queries.unanswered())
    verify(world.partition.table)
    assert world.kept >= {offset for offset in world.log.bad if offset >= world.begin}
    while world.writes:
        world.write()
    for user_id in world.log.history:
        expected = world.log.oracle.stored(user_id)
        for base in (world.base, world.log.end):
            rows = world.log.rows_at(user_id, base)
            assert world.db.merged_with(user_id, rows) == expected, (user_id, base)
    return world.warm, world.ahead


def test_a_candidates_partition_is_the_fold_of_its_log() -> None:
    warm = ahead = 0
    for seed in range(SEEDS):
        try:
            reused, waiting = play(seed)
        except Exception as exc:
            exc.add_note(f"seed {seed}")
            raise
        warm, ahead = warm + reused, ahead + waiting
    assert warm > SEEDS // 8
    assert ahead > SEEDS
