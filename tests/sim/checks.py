"""The checks at every commit, at every reply and at the end of a run.

They compare with an independent fold of the log (readstates.ops.proof.oracle) and keep its history:
the read states of each user after each record, and the changes of each record.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from readstates.ops.proof.oracle import EPOCH, Oracle
from readstates.schemas.headers import ReplyAddress
from readstates.schemas.read_state import ReadState, Row
from readstates.schemas.replies import ErrorReply, Reply, decode_reply
from readstates.schemas.version import version_of
from readstates.streams.config import IDS_UNCHECKED
from readstates.streams.kafka.group_consumer import TopicPartition
from tests.support.expected_replies import asked_for, expected, mentions, places, shown

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

ANSWER_S = 1.0  # a query with that much time gets to a worker where nothing is wrong …
ARRIVED_S = 0.06  # … and one that got there with that much left gets an answer


class Violation(AssertionError):
    """A promise is broken."""


@dataclass
class Asked:
    """A query in the log, and what came of it."""

    number: int
    partition: int
    user_id: int
    sent_s: float
    deadline_ms: int
    what: dict[str, Any]
    usable: bool  # its reply topic is there
    allowed: bool  # … or may be, by now
    offset: int = -1
    arrived_s: float | None = None  # when a poll brought it to a worker, first
    answers: list[tuple[Worker, int]] = field(default_factory=list)  # who, in which incarnation


@dataclass
class Known:
    """The history of one user: `rows[i]` holds from `versions[i]` on."""

    versions: list[int] = field(default_factory=lambda: [0])
    rows: list[list[Row]] = field(default_factory=lambda: [[]])

    def at(self, version: int) -> list[Row]:
        return self.rows[bisect.bisect_right(self.versions, version) - 1]


class Checks:
    """Each method is called when the thing happens; what is wrong raises Violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        epoch_ms = world.plan.settings.id_epoch_ms
        self.oracle = Oracle(id_epoch_ms=None if epoch_ms == IDS_UNCHECKED else epoch_ms)
        self.known: dict[int, Known] = {}
        self.effects: list[list[tuple[int, int, tuple[int, int], Row | None]]] = [
            [] for _ in range(world.partitions)
        ]  # offset, user, key, row or deleted
        self.bad: list[list[int]] = [[] for _ in range(world.partitions)]
        self.letters: set[tuple[int, int]] = set()
        self.asked: list[Asked] = []
        self.asked_of: list[list[Asked]] = [[] for _ in range(world.partitions)]
        self.came_s = [0.0] * world.partitions  # when a poll brought a query of it, last
        self.let_go: set[tuple[Worker, int]] = set()  # who released which partition, for now
        self.committed_to: dict[TopicPartition, int] = {}
        self.replied_at: dict[int, int] = {}  # partition: the newest version anybody saw
        self.seen: dict[int, int] = {}  # user: the version that its client has
        self.replies = 0
        self._keeps_letters = not world.plan.settings.is_candidate

    # -- the log ------------------------------------------------------------------------------

    def produced(self, number: int, record: Any) -> None:
        """A record of updates is in the log: fold it."""
        world = self._world
        user_id = int(record.key) if record.key is not None else 0
        if record.key is not None and world.partition_of(user_id) != number:
            self.bad[number].append(record.offset)
            return
        bad = self.oracle.bad
        self.oracle.apply(record.key, record.value, record.offset, record.timestamp)
        if self.oracle.bad > bad:
            self.bad[number].append(record.offset)
            return
        known = self.known.setdefault(user_id, Known())
        before, after = known.rows[-1], self.oracle.stored(user_id)
        if before == after:
            return
        version = version_of(EPOCH, record.offset)
        known.versions.append(version)
        known.rows.append(after)
        keys = {row[:2] for row in after}
        effects = self.effects[number]
        effects += [(record.offset, user_id, row[:2], row) for row in after if row[8] == version]
        effects += [
            (record.offset, user_id, row[:2], None) for row in before if row[:2] not in keys
        ]

    # -- commits ------------------------------------------------------------------------------

    def commits_what_it_owns(self, worker: Worker, number: int) -> None:
        """R4: the group takes a member's commit of any partition; so nobody may make others."""
        if not self._world.group.owns(worker, number):
            raise Violation(f"{worker} committed partition {number}, which it does not own")

    def committed(self, worker: Worker, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        """The broker took a commit: all below it is durable, or done with."""
        for tp, (offset, _) in offsets.items():
            before = self.committed_to.get(tp, 0)
            if not before <= offset <= self._world.logs[tp].end:
                raise Violation(f"{worker} committed {tp} {offset} after {before}")
            self.committed_to[tp] = offset
            if tp.topic == self._world.plan.settings.updates_topic:
                self._durable(worker, tp.partition, before, offset)
            else:
                self._answered(worker, tp.partition, before, offset)

    def _durable(self, worker: Worker, number: int, low: int, high: int) -> None:
        effects = self.effects[number]
        at = bisect.bisect_left(effects, low, key=lambda effect: effect[0])
        database = self._world.database
        while at < len(effects) and effects[at][0] < high:
            offset, user_id, key, row = effects[at]
            at += 1
            version = version_of(EPOCH, offset)
            if self._world.live.has(number, offset):
                continue
            if self._world.plan.settings.tells_changes:
                self._world.feed.check_told(worker, number, user_id, offset)
            stamp, found = database.cell(user_id, key)
            if stamp < version or (stamp == version and found != row):
                raise Violation(
                    f"{worker} committed {high} of partition {number}, but the database has not "
                    f"offset {offset} of user {user_id}: {key} is {found} of offset "
                    f"{(stamp & (1 << 48) - 1) - 1}, should be {row}"
                )
        for offset in self.bad[number] if self._keeps_letters else ():
            if low <= offset < high and (number, offset) not in self.letters:
                raise Violation(
                    f"{worker} committed {high} of partition {number}: the bad record at {offset} "
                    "is not in the dead letters"
                )

    def _answered(self, worker: Worker, number: int, low: int, high: int) -> None:
        for asked in self.asked_of[number]:
            if not low <= asked.offset < high or asked.answers or not asked.usable:
                continue
            if self._world.now_ms() < asked.deadline_ms:
                raise Violation(
                    f"{worker} committed queries {high} of partition {number}: the one at "
                    f"{asked.offset} has no answer and {asked.deadline_ms} is not over"
                )

    def dead_letter(self, record: Any, reason: str) -> None:
        """The broker has a dead letter."""
        if not self._keeps_letters:
            raise Violation(f"a candidate's dead letter: {reason} {record}")
        if record.offset not in self.bad[record.partition]:
            raise Violation(f"a good record is a dead letter: {reason} {record}")
        self.letters.add((record.partition, record.offset))

    # -- queries ------------------------------------------------------------------------------

    def sent(self, asked: Asked) -> None:
        """A query is in the log; look at it again when its time is over."""
        self.asked.append(asked)
        self.asked_of[asked.partition].append(asked)
        left_s = self._left_s(asked)
        if asked.usable and left_s >= ANSWER_S:
            self._world.clock.later(left_s, lambda: self._got_there(asked))

    def arrived(self, number: int, offset: int) -> None:
        """A poll brought a query to a worker."""
        self.came_s[number] = now_s = self._world.clock.now
        asked = next(asked for asked in self.asked_of[number] if asked.offset == offset)
        if asked.arrived_s is not None:
            return
        asked.arrived_s = now_s
        left_s = self._left_s(asked)
        if asked.usable and left_s >= ARRIVED_S:
            self._world.clock.later(left_s, lambda: self._in_time(asked, now_s))

    def _left_s(self, asked: Asked) -> float:
        return (asked.deadline_ms - self._world.now_ms()) / 1000

    def _quiet_since(self, asked: Asked) -> float:
        return self._world.quiet_since_s[asked.partition]

    def _got_there(self, asked: Asked) -> None:
        """Not there in time may be one with others before it, brought in slow polls until now."""
        stood = self.came_s[asked.partition] <= self._world.clock.now - ANSWER_S
        if asked.arrived_s is None and stood and self._quiet_since(asked) < asked.sent_s:
            self._world.fail(f"nothing was wrong, and nobody took {asked}")

    def _in_time(self, asked: Asked, since_s: float) -> None:
        if not asked.answers and self._quiet_since(asked) < since_s:
            self._world.fail(f"nothing was wrong, and nobody answered {asked}")

    def replied(
        self, worker: Worker, address: ReplyAddress, key: bytes | None, body: bytes
    ) -> None:
        """A reply or an error goes out."""
        asked = self.asked[int(address.correlation_id or b"-1")]
        world, number = self._world, asked.partition
        if (worker, number) in self.let_go:
            raise Violation(f"{worker} answered, and had let the partition go: {asked}")
        owned = worker.partitions.owned.get(number)
        by = (worker, owned.partition.incarnation if owned else -1)
        if by in asked.answers:
            raise Violation(f"{worker} answered twice: {asked}")
        asked.answers.append(by)
        if key != b"%d" % asked.user_id or not asked.allowed:
            raise Violation(f"{worker} answered {asked} with key {key!r} to {address}")
        reply = decode_reply(body)
        if isinstance(reply, ErrorReply) or asked.what.get("bad"):
            if (reply[1] == "invalid_query") != bool(asked.what.get("bad")):
                raise Violation(f"{worker} answered {asked} with {reply}")
            return
        self.replies += 1
        if world.now_ms() >= asked.deadline_ms:
            raise Violation(f"{worker} answered after the deadline: {asked}")
        after = asked.what.get("after_offset")
        if after is not None and reply.version < version_of(EPOCH, after):
            raise Violation(f"{worker} answered {asked} as of {reply.version}: before the update")
        owner = world.group.owns(worker, number)
        if owner:
            if reply.version < self.replied_at.get(number, 0):
                raise Violation(f"{worker} shows partition {number} going back: {reply} {asked}")
            self.replied_at[number] = reply.version
            self.seen[asked.user_id] = reply.version
        self._content(worker, owner, asked, reply)

    def _content(self, worker: Worker, owner: bool, asked: Asked, reply: Reply) -> None:
        """The reply is the fold at its version; of a delta, what changed, if that is all.

        Except that while somebody who lost the partition wrote on, a user may be ahead.
        """
        database, user_id = self._world.database, asked.user_id
        newest = database.newest.get(user_id, 0)
        if newest > reply.version:
            if owner and database.newest_foreign.get(user_id, 0) <= reply.version:
                raise Violation(f"{worker} answered before it had caught up: {reply} {asked}")
            return
        what, since = asked.what, asked.what.get("since_version")
        known = self.known.get(user_id, Known())
        above = -1
        if not reply.full:
            if since is None or since > reply.version:
                raise Violation(f"{worker}: a delta nobody can use: {reply} {asked}")
            above = since
        should = expected(known.at(reply.version), what, above)
        with_mentions = what.get("mentions", False)
        rows = [
            ReadState(*row[:9], mentions(row) if with_mentions else None) for row in should.rows
        ]
        if (reply.read_states, reply.totals, reply.next) != (rows, should.totals, should.next):
            raise Violation(f"{worker} answered {asked}\n  with {reply}\n  should be {should}")
        if not reply.full:
            is_wanted = asked_for(what)
            before = [row for row in shown(known.at(above)) if is_wanted(row)]
            gone = set(places(before)) - set(places(shown(known.at(reply.version))))
            if gone:
                raise Violation(f"{worker}: {reply} does not say that {gone} is gone: {asked}")

    # -- the end ------------------------------------------------------------------------------

    def final(self) -> None:
        """All is drained: the database is the fold of the log."""
        database = self._world.database
        for user_id in {*database.cells, *self.known}:
            found, should = self._world.live.read(None, user_id), self.oracle.stored(user_id)
            if found != should:
                raise Violation(f"user {user_id}: the database has {found}, the log {should}")
        for number, offsets in enumerate(self.bad if self._keeps_letters else ()):
            for offset in offsets:
                if (number, offset) not in self.letters:
                    raise Violation(f"partition {number} offset {offset}: no dead letter")
