"""Whatever the world does, a partition is the fold of its log: seeded, on the real table.

Each seed drives one log through late and failing loads, writes that fail or fail after they were
applied, writes of a dead owner that arrive late, and crashes that leave the committed offset, and
most of the time the table: as it is, or with the position of an earlier slice.
Checked: every reply against the oracle at the reply's version, every commit against the database,
the bounds on memory on the way, and the database against the oracle at the end.
"""

from __future__ import annotations

import bisect
import json
import random
from typing import Any

import pytest
from msgspec import structs

from readstates.ops.proof.oracle import Oracle
from readstates.ops.proof.traffic import FIRST_MESSAGE_ID, Record, Traffic
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer
from readstates.streams.cassandra.write_behind import pack
from readstates.streams.partition import room
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.plausible_ids import AHEAD_MAX_MS, TIME_SHIFT, PlausibleIds
from readstates.streams.partition.query import Query
from tests.support.events import anything
from tests.support.expected_replies import expected, shown
from tests.support.small_world import World, query, record, version
from tests.support.table_builds import verify

SEEDS = 100
RECORDS = 300
ANYTHING_SHARE = 0.4
IMPLAUSIBLE = 60  # offsets, which are the records' timestamps: of half the logs, IDs before them
ID_EPOCH_MS = AHEAD_MAX_MS + IMPLAUSIBLE - (FIRST_MESSAGE_ID >> TIME_SHIFT)
STATES_MAX = 90  # over what the traffic gives a user: refusals depend on replays, not on the log
PARKED_MAX = 20
STEPS_TO_DRAIN = 4000


class Log:
    """Records with gaps between offsets, and what the oracle makes of them."""

    def __init__(self, rand: random.Random, seed: int) -> None:
        self.ids = PlausibleIds(ID_EPOCH_MS) if seed % 2 else None
        self.oracle = Oracle(id_epoch_ms=ID_EPOCH_MS if seed % 2 else None)
        self.records: list[Any] = []
        self.changes: dict[int, tuple[int, list[tuple[int, int]]]] = {}  # offset: user, keys
        self.history: dict[int, tuple[list[int], list[list[Any]]]] = {}  # user: offsets, rows
        self.bad: set[int] = set()  # what must become a dead letter
        offset = 0
        traffic, messages = Traffic(seed, 12), rand.choice((8, 40))
        for sent in traffic.updates(RECORDS):
            user_id = rand.choice(traffic.user_ids)
            if rand.random() < 0.01:
                body = json.dumps({"type": "delete_user", "user_id": user_id}).encode()
                self._add(offset, Record(b"%d" % user_id, body))
            elif rand.random() < ANYTHING_SHARE:
                body = json.dumps(
                    {"user_id": user_id, **anything(rand, (1, messages), (1, 2, 3))}
                ).encode()
                self._add(offset, Record(b"%d" % user_id, body))
            else:
                self._add(offset, sent)
            offset += 1 + (rand.randint(1, 90) if rand.random() < 0.05 else 0)
        self.end = offset

    def _add(self, offset: int, sent: Record) -> None:
        user_id = int(sent.key or b"0")
        self.records.append(record(offset, sent.key, sent.value))
        bad = self.oracle.bad
        users = self.oracle.users
        before = self.oracle.stored(user_id)
        self.oracle.apply(sent.key, sent.value, offset, self.records[-1].timestamp)
        if self.oracle.bad > bad:
            self.bad.add(offset)
        if self.oracle.bad > bad or user_id not in users:
            return
        old = {row[:2]: row for row in before}
        new = {row[:2]: row for row in self.oracle.stored(user_id)}
        keys = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
        self.changes[offset] = (user_id, keys)
        offsets, states = self.history.setdefault(user_id, ([], []))
        offsets.append(offset)
        states.append(list(new.values()))

    def rows_at(self, user_id: int, position: int) -> list[Any]:
        """A user's read states when everything before `position` is applied."""
        offsets, states = self.history.get(user_id, ([], []))
        index = bisect.bisect_left(offsets, position)
        return sorted(states[index - 1]) if index else []


class FaultyWorld(World):
    """Steps drawn at random; `faults` may be turned off."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log = Log(self.random, seed)
        self.slots = self.random.choice((100, 120, 200))
        self.faults = True
        self.fed = 0  # records handed to some owner
        self.next = 0
        self.committed = 0
        self.checked = 0
        self.last_version = 0
        self.writes: list[tuple[list[Any], list[Any]]] = []
        self.kept: set[int] = set()  # dead letters that the broker has
        self.read: list[tuple[Any, list[Row]]] = []  # loads whose rows were read
        more: dict[str, Any] = {"parked_max": PARKED_MAX, "inbox_max": 50, "ids": self.log.ids}
        super().__init__(self.slots, STATES_MAX, **more)

    # -- steps

    def step(self) -> None:
        step = self.random.choices(
            (self.fetch, self.turn, self.load, self.flush, self.write, self.keep, self.ask_one,
             self.commit, self.forget_one, self.crash),
            (20, 20, 25, 8, 12, 10, 8, 5, 3, 0.3 if self.faults else 0),
        )[0]  # fmt: skip
        if step != self.crash:
            self.position_before = self.partition.table.position
        step()
        self.partition.check()
        assert self.partition.inbox.records <= 50 + 20

    def fetch(self) -> None:
        partition = self.partition
        if not partition.wants_bytes or partition.inbox.next_arrival >= self.log.end:
            return
        start, self.next = partition.inbox.next_arrival, self.next + self.random.randint(0, 20)
        records = [r for r in self.log.records[: self.next] if r.offset >= start]
        if records:
            end = records[-1].offset + 1
        else:  # control records only
            following = [r.offset for r in self.log.records if r.offset >= start]
            end = following[0] if following else self.log.end
        self.fed = max(self.fed, end)
        if end > start:
            partition.take(Batch(start, records, end))

    def turn(self) -> None:
        self.partition.run(self.random.randint(1, 30), self.now_ms)
        self.now_ms += self.random.randint(0, 50)

    def load(self, *asked: Any) -> None:
        if asked:  # the effect
            partition, user_id, ticket, _ = asked
            self.loads.append((partition, partition.incarnation, user_id, ticket))
            return
        if self.loads and self.random.random() < 0.6:  # read now, answer later, in any order
            load = self.loads.pop(self.random.randrange(len(self.loads)))
            if self.faults and self.random.random() < 0.2:  # failed, and tried again
                self.loads.append(load)
            elif load[0].wants_load(*load[1:]):
                self.read.append((load, self.db.read(load[2])))
        elif self.read:
            load, rows = self.read.pop(self.random.randrange(len(self.read)))
            load[0].loaded(*load[1:], rows)

    def flush(self) -> None:
        delay_ms = self.random.choice((0, 500)) if self.faults else 0
        due = self.partition.take_writes(self.now_ms, delay_ms, 16, self.slots // 2)
        for write in due:
            if not write.rows and not write.delete_version:
                self.partition.written(write)
        self.writes += pack(due, self.random.choice((1, 3, 30)), lambda user_id: user_id % 2)

    def write(self) -> None:
        if not self.writes:
            return
        changes, waiting = self.writes.pop(self.random.randrange(len(self.writes)))
        failed = self.faults and self.random.random() < 0.25
        if not failed or self.random.random() < 0.5:
            self.db.write(changes)
        if failed and self.random.random() < 0.1:
            self.writes.append((changes, []))  # and once more, late
        for one in waiting:
            one.pending -= 1
            one.failed = one.failed or failed
            if not one.pending:
                one.partition.written(one)

    def keep(self) -> None:
        if self.dead:
            index = self.random.randrange(len(self.dead))
            partition, incarnation, letter, _ = self.dead.pop(index)
            self.kept.add(letter.offset)
            partition.dead_letter_kept(incarnation, letter.offset)

    def ask_one(self) -> None:
        more: dict[str, Any] = {}
        if self.random.random() < 0.3:
            more["since_version"] = version(self.random.randint(0, self.log.end))
        if self.random.random() < 0.3:
            more["after_offset"] = self.random.randrange(max(1, self.fed))
        for name in ("mentioned", "totals"):
            if self.random.random() < 0.2:
                more[name] = True
        if self.random.random() < 0.2:
            more["read_state_type"] = self.random.randint(0, 1)
        if self.random.random() < 0.2:
            more["channel_ids"] = tuple(self.random.sample(range(1, 6), 3))
        if self.random.random() < 0.2:
            more["limit"] = self.random.randint(1, 5)
        if self.random.random() < 0.2:
            more["after"] = (0, self.random.choice((1, 2, 10**17, 5 * 10**17)))
        self.ask(query(self.random.choice(list(self.log.history)), **more))

    def forget_one(self) -> None:
        waiting = list(self.partition.queries.unanswered())
        if waiting:
            self.partition.queries.forget(self.random.choice(waiting))

    def commit(self) -> None:
        position = self.partition.progress.committable()
        assert position >= self.committed, "the watermark went back"
        assert position <= self.partition.table.position <= self.partition.position
        self.committed = position
        for offset in range(self.checked, position):
            user_id, keys = self.log.changes.get(offset, (0, []))
            for key in keys:
                assert self.db.version(user_id, key) >= version(offset), (
                    f"committed {position}, but offset {offset} is not in the database"
                )
        self.checked = max(self.checked, position)

    def crash(self) -> None:
        table = self.partition.table
        position, died = self.committed, None
        if self.random.random() < 0.7:
            table.position = self.random.choice((table.position, self.position_before))
            if table.position >= self.committed:
                position, died = table.position, bytearray(self.buffer)
        table.close()
        self.warm += died is not None
        self.dead.clear()  # never sent
        self.partition.incarnation = -1
        self.last_version = 0
        self.next = sum(r.offset < position for r in self.log.records)
        self.incarnations += 1
        more: dict[str, Any] = {"parked_max": PARKED_MAX, "inbox_max": 50}
        more["incarnation"] = self.incarnations
        more |= {"position": position, "committed": self.committed, "ids": self.log.ids}
        self.open(self.slots, STATES_MAX, died, catch_up_to=max(position, self.fed), **more)
        self.position_before = position

    incarnations = 1
    position_before = 0  # in the table, before the last step
    warm = 0  # tables used again

    # -- checks

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        assert not query.done
        version, full, get = answer.version, answer.full, query.get
        query.done = True
        position = version & ((1 << 48) - 1)
        assert version >= self.last_version, "a reply went back"
        self.last_version = version
        assert position >= self.partition.progress.catch_up_to
        assert get.after_offset is None or get.after_offset < position
        rows, above = self.log.rows_at(get.user_id, position), -1
        if not full:
            assert get.since_version is not None
            above = get.since_version
            before = self.log.rows_at(get.user_id, above & ((1 << 48) - 1))
            gone = {row[:2] for row in shown(before)} - {row[:2] for row in shown(rows)}
            assert not gone, "a deletion since then is not told"
        should = expected(rows, structs.asdict(get), above)
        found = answer.rows, answer.totals, answer.next
        assert found == should, f"user {get.user_id} at {position}, full={full}"

    def drain(self) -> None:
        self.faults = False
        for _ in range(STEPS_TO_DRAIN):
            self.step()
            partition = self.partition
            done = partition.all_durable and not partition.loading.users
            if partition.position == self.log.end and done:
                return
        raise AssertionError(
            f"stuck: position {partition.position} of {self.log.end} "
            f"stalled={partition.room.stalled} parked={partition.loading.parked_updates} "
            f"held={len(partition.watermark)}"
        )


def play(seed: int) -> int:
    """One world from beginning to end; returns how many tables of dead owners were used."""
    world = FaultyWorld(seed)
    for count in range(1000):
        world.step()
        if count % 100 == 0:
            verify(world.partition.table)
    world.drain()
    world.commit()
    assert world.committed == world.log.end
    assert not list(world.partition.queries.unanswered())
    verify(world.partition.table)
    assert world.kept >= world.log.bad
    while world.writes:  # of owners that are dead
        world.write()
    for user_id in world.log.history:
        assert world.db.read(user_id) == world.log.oracle.stored(user_id), user_id
    return world.warm


@pytest.mark.parametrize("scan_max", [2, 512])
def test_a_partition_is_the_fold_of_its_log(scan_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "EVICT_SCAN_MAX", scan_max)
    warm = 0
    for seed in range(SEEDS // 2 * (scan_max > 2), SEEDS // 2 * (1 + (scan_max > 2))):
        try:
            warm += play(seed)
        except Exception as exc:
            exc.add_note(f"seed {seed}, EVICT_SCAN_MAX {scan_max}")
            raise
    assert warm > SEEDS // 4
