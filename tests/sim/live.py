"""The live workers beside a candidate: what they have written to `read_states`.

In a seed whose workers are a candidate's, what these write is the overlay. The base is the fold of
the log up to where the live workers are, which may be behind the candidate, or ahead of it. They
never delete in advance what the candidate still has to show: of that it may know nothing
(`cassandra/overlay.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from readstates.ops.proof.oracle import EPOCH
from readstates.schemas.read_state import Row
from readstates.schemas.version import offset_of, version_of
from readstates.streams.cassandra.overlay import ALL_DELETED, Overlaid, merged
from readstates.streams.kafka.group_consumer import TopicPartition

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

RUN = "0123456789abcdef"
STEP_S = 0.01  # between two advances of the live workers


class Live:
    """See the module. `positions`: the offsets below which all is in the base, by partition."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.positions = list(world.first_offsets)
        if world.plan.settings.is_candidate:
            world.clock.later(STEP_S, self._advance)

    def _advance(self) -> None:
        world = self._world
        for number, position in enumerate(self.positions):
            log = world.logs[TopicPartition(world.plan.settings.updates_topic, number)]
            left = max(0, log.end - position)
            self.positions[number] = position + int(left * world.plan.live_pace)
        if not world.ending:
            world.clock.later(STEP_S, self._advance)

    def read(self, worker: Worker | None, user_id: int) -> list[Row]:
        """What a load of the user gives to this worker; without one, what there is."""
        database, world = self._world.database, self._world
        if not world.plan.settings.is_candidate:
            return database.read(user_id)
        overlay = [
            Overlaid(key, stamp, row)
            for key, (stamp, row) in database.cells.get(user_id, {}).items()
            if stamp >= database.deleted.get(user_id, 0)
        ]
        if user_id in database.deleted:
            overlay.append(Overlaid((ALL_DELETED, 0), database.deleted[user_id], None))
        return merged(self._base(worker, user_id), overlay)

    def has(self, number: int, offset: int) -> bool:
        """True if the live workers have written this record's changes, or kept its dead letter."""
        return self._world.plan.settings.is_candidate and offset < self.positions[number]

    def _base(self, worker: Worker | None, user_id: int) -> list[Row]:
        number = self._world.partition_of(user_id)
        owned = worker.partitions.owned.get(number) if worker else None
        end = self.positions[number]
        known = self._world.checks.known.get(user_id)
        if known is None:
            return []
        position = owned.partition.position if owned else end
        rows = known.at(version_of(EPOCH, min(position, end) - 1))
        for version, after in zip(known.versions, known.rows, strict=True):
            if position <= offset_of(version) < end:
                if {row[:2] for row in rows} - {row[:2] for row in after}:
                    break
                rows = after
        return rows
