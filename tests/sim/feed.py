"""The change feed of all workers, with the mirror (`ops/proof/mirror.py`) that checks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from readstates.ops.proof.mirror import Key, Mirror, told_by
from readstates.ops.proof.oracle import EPOCH, Seen
from readstates.schemas.version import version_of
from tests.support.expected_replies import mentions, shown

from .checks import Known, Violation

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

TIMEOUT_S = 0.5  # after which a record counts as not taken
AFTER_DEATH = 0.5  # of the records under way when their worker dies, so many get there


class ChangeProducer:
    """As `ChangeProducer` of readstates.streams.kafka, without a broker.

    A record may get there late, or not, or be there although it counts as not taken. What one
    worker sends to one partition gets there in order.
    """

    def __init__(self, world: World, worker: Worker) -> None:
        self._world, self._worker = world, worker
        self._last_s: dict[int, float] = {}  # by partition: when the last record gets there
        self._ended: list[tuple[Callable[[bool], None], bool]] = []

    def send(
        self,
        partition: int,
        key: bytes,
        values: Sequence[bytes],
        causes: bytes,
        done: Callable[[bool], None],
    ) -> None:
        self._worker.may_die()
        world, clock = self._world, self._world.clock
        owned = self._worker.partitions.owned[partition].partition
        owner = (self._worker.name, owned.incarnation)
        written = world.database.newest_foreign
        if not world.group.owns(self._worker, partition):
            written = world.database.newest
        newest = written.get(int(key), 0)  # what others have written, or may have

        def arrive() -> None:
            if not self._worker.loop.dead or world.noise.random() < AFTER_DEATH:
                world.feed.arrived(owner, partition, key, values, causes, newest)

        fails = world.feed_is_down or world.chance(world.plan.change_fails)
        at = max(clock.now + world.delay(), self._last_s.get(partition, 0.0))
        self._last_s[partition] = at
        if not fails or world.noise.random() < 0.3:
            clock.push(at, None, arrive)
        ended_at = clock.now + TIMEOUT_S if fails else at + world.delay()
        clock.push(max(at, ended_at), None, lambda: self._ended.append((done, not fails)))
        self._worker.may_die()

    def poll(self) -> None:
        ended, self._ended = self._ended, []
        for done, taken in ended:
            done(taken)


class Feed:
    """The topic, and who reads it. What is wrong fails the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.mirror = Mirror(self._should)

    def _should(self, user_id: int, version: int) -> dict[Key, Seen]:
        """What a query would have been answered, by the log."""
        known = self._world.checks.known.get(user_id, Known())
        return {row[:2]: (*row[:9], mentions(row)) for row in shown(known.at(version))}

    def arrived(
        self,
        owner: tuple[int, int],
        partition: int,
        key: bytes,
        values: Sequence[bytes],
        causes: bytes,
        newest: int,
    ) -> None:
        """The records of a change are in the topic; `owner`: a worker and an incarnation.

        `newest`: the version up to which others had written the user's read states to the database.
        """
        world, parts = self._world, len(values)
        if partition != world.partition_of(int(key)):
            world.fail(f"{owner} told of user {key!r} in partition {partition}")
        for number, value in enumerate(values, 1):
            part = b"%d/%d" % (number, parts)
            told = told_by(value, {"read-states-part": part, "read-states-cause": causes})
            try:
                assert key == b"%d" % told.user_id, f"{told} has the key {key!r}"
                self.mirror.apply(told, owner, is_ahead=newest > told.version)
            except AssertionError as exc:
                world.fail(f"{owner}: {exc}", exc)

    def check_told(self, worker: Worker, number: int, user_id: int, offset: int) -> None:
        """F2: a commit passes a change only if it is in the feed. Raises Violation."""
        if self.mirror.version(user_id) < version_of(EPOCH, offset):
            raise Violation(
                f"F2: {worker} committed offset {offset} of partition {number}, whose change of "
                f"user {user_id} is not in the feed: the mirror is at "
                f"{self.mirror.version(user_id)}"
            )

    def final(self) -> None:
        """F2: all is drained, and the mirror is the fold of the log. Raises Violation."""
        for user_id, known in self._world.checks.known.items():
            should = self._should(user_id, known.versions[-1])
            held = self.mirror.held.get(user_id)
            if (held.states if held else {}) != should:
                raise Violation(f"F2: user {user_id}: the mirror holds {held}, the log {should}")
