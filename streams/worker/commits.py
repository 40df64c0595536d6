"""Commits a worker's watermarks to the group, with the position that it has reached as metadata.

The metadata of a commit of updates is `live:<position>;<database>;` while its owner is at work and
`clean:<position>;<database>;` once the owner has stopped there. With a change feed,
`told:<offset>;` follows. The next owner trusts only a clean position, and opens the partition only
over the same database (`Database.name` in `cassandra/database.py`). A candidate's commits also have
`candidate:<run>;`, because what is below them is partly in the overlay alone: only that run may go
on from there.
The terminator shows where it ends: confluent-kafka may read beyond the end of a commit that another
client wrote, and a position without one may have digits that do not belong to it.
This module keeps the invariants R2, R3 and R4 of `rebalance.py` and W2 of
`streams/partition/watermark.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from .. import metrics
from ..config import Settings
from ..kafka.group_consumer import Committed, Membership, TopicPartition
from ..priorities import OTHER
from .owned import OwnedPartition

CLEAN, LIVE = "clean", "live"  # what commit metadata says of the position in it
TERMINATOR = ";"
OURS = re.compile(f"({CLEAN}|{LIVE}):[0-9]+{TERMINATOR}")
TOLD_TO = re.compile(rf"({CLEAN}|{LIVE}):[0-9]+;[^;]*;told:([0-9]+);")

RUN = re.compile(rf"({CLEAN}|{LIVE}):[0-9]+;[^;]*;candidate:([0-9a-f]{{16}});")


def metadata_of(position: int, clean: bool, database: str = "", told_to: int | None = None) -> str:
    """Commit metadata: the position that was answered from, and whether its owner stopped there.

    `database`: the name of the `Database` that it is written to; empty: of any. `told_to`: the
    offset below which the change feed has every change; None without a feed.
    """
    fields = [f"{CLEAN if clean else LIVE}:{position}", database]
    if told_to is not None:
        fields.append(f"told:{told_to}")
    return "".join(field + TERMINATOR for field in fields)


def written_to(database: str, run: str) -> str:
    """What a commit says of the place of its updates: the database, and the candidate's run."""
    return f"{database}{TERMINATOR}candidate:{run}" if run else database


def run_in(metadata: str) -> str:
    """The run of the candidate that made a commit; empty if no candidate did."""
    found = RUN.match(metadata)
    return found[2] if found else ""


def told_to(metadata: str, committed: int, log_end: int) -> int:
    """The offset below which the change feed has every change, as a commit's metadata says.

    Without such a statement it is the committed offset (F2).
    """
    found = TOLD_TO.match(metadata)
    return committed if found is None else max(committed, min(int(found[2]), log_end))


def catch_up_target(metadata: str, log_end: int) -> int:
    """The offset that must be passed before queries are answered."""
    text, terminator, _ = metadata.partition(TERMINATOR)
    kind, _, position = text.partition(":")
    if terminator and kind == CLEAN and position.isdecimal():
        return min(int(position), log_end)
    return log_end


def is_of_a_worker(metadata: str) -> bool:
    """True if a worker made the commit, and no other program."""
    return bool(OURS.match(metadata))


class Turn:
    """What one commit is for: the partitions that asked while another one was under way."""

    def __init__(self) -> None:
        self.owned: dict[int, tuple[OwnedPartition, bool]] = {}  # by incarnation; whether clean
        self.done = False

    def add(self, owned: Iterable[OwnedPartition], clean: bool) -> None:
        for item in owned:
            life = item.partition.incarnation
            if life < 0:
                continue
            before = self.owned.get(life, (item, False))[1]
            self.owned[life] = (item, clean or before)


class Commits:
    """Commits the watermarks of owned partitions, one commit at a time."""

    def __init__(self, settings: Settings, member: Membership, database: str) -> None:
        self._settings = settings
        self._member = member
        self._database = database
        self._under_way = asyncio.Lock()
        self._next = Turn()

    async def commit(self, owned: Iterable[OwnedPartition], *, clean: bool = False) -> bool:
        """Commit the watermarks that moved; False if that failed, which loses nothing.

        Partitions are opened and handed over each by itself; those that ask while another commit
        is under way share the next one.
        """
        turn = self._next
        turn.add(owned, clean)
        async with self._under_way:  # W2: one at a time, because an older commit must not be last
            if turn is self._next:  # otherwise it was committed together with another's
                self._next = Turn()
                turn.done = await self._commit(turn)
        return turn.done

    async def _commit(self, turn: Turn) -> bool:
        settings = self._settings
        offsets: dict[TopicPartition, Committed] = {}
        moved: list[tuple[OwnedPartition, tuple[int, int], bool]] = []
        for item, clean in turn.owned.values():
            partition, number = item.partition, item.partition.number
            if partition.incarnation < 0:  # closed while this commit waited for its turn (R4)
                continue
            with partition.exclusive(OTHER):
                marks = (
                    partition.progress.committable(),
                    item.query_mark.position(item.query_position),
                )
            if marks != item.committed or clean:
                moved.append((item, marks, clean))
                shown = max(partition.position, partition.progress.catch_up_to)  # R3
                told = partition.progress.told_to()
                metadata = metadata_of(shown, clean, self._database, told)
                offsets[TopicPartition(settings.updates_topic, number)] = (marks[0], metadata)
                offsets[TopicPartition(settings.queries_topic, number)] = (marks[1], "")
        if not offsets:
            return True
        if not await self._member.commit_offsets(offsets):  # R4
            metrics.COMMIT_FAILURES.inc()
            return False
        for item, marks, clean in moved:
            item.committed = marks
            if not clean and item.partition.incarnation >= 0:  # otherwise lost in the meantime
                item.partition.note_live_commit()  # R2
        return True
