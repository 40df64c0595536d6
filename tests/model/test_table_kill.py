"""kill -9 at random instants: the file left behind is used with the right content, or dropped.

A forked process folds a log into a table file, loads and evicts users and writes them out, and is
killed, often while it opens the file of the one before. Three things outlive it: the file, a
journal of what it wrote to the database, and what it committed. Each file is then opened as the
next owner would: `fsck`, the part of the log after the position folded again, and compared, user
by user, with dicts that folded the same log (oracle.py). KILLS=1000 sets how many (`make kills`).
"""

from __future__ import annotations

import copy
import marshal
import os
import random
import re
import signal
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest

from readstates.cache import fsck, tablefile
from readstates.cache.tablefile import open_table
from readstates.schemas import wire
from readstates.streams.partition.fold import fold, slots_needed
from readstates.streams.partition.rows import slots_of
from tests.support.table_builds import BUILDS, IDENTITY, everything, residents, verify
from tests.support.table_oracle import CHANGED, NO_ROOM, Endless, User

KILLS = int(os.environ.get("KILLS", "60"))
LIFE_S = {"compiled": 0.03, "plain": 0.1}  # the longest that a process lives
USERS, CHANNELS, STATES, STATES_MAX = 60, 12, 150, 1_000  # nobody reaches the limit
MESSAGES = 12  # that are talked about at one time: a read state has five extensions at most
SLICE = 8  # events folded before the position is stored
COMMIT = 150  # events between two commits
EPOCH = 8 << 48
NAMES = (
    *("ack",) * 3, *("mention",) * 5, *("retract_mention",) * 2, "ack_unread", "pins_ack", "set",
    "merge", "delete", "delete_up_to",
)  # fmt: skip

Event = dict[str, Any]  # as the interface has it
Rows = dict[tuple[int, int], Any]


@lru_cache(maxsize=16)
def chunk(seed: int, number: int) -> list[Event]:
    """A thousand events of a log without an end."""
    draw = random.Random(f"{seed} {number}")
    events: list[Event] = []
    for _ in range(1000):
        event: Event = {"user_id": 1 + int(USERS * draw.random() ** 2)}
        events.append(event)
        if draw.random() < 0.02:
            event["type"] = draw.choice(("delete_user", "restore_user"))
            event |= {"final": True} if draw.random() < 0.5 else {}
            continue
        name, message = draw.choice(NAMES), number + draw.randint(1, MESSAGES)
        event["type"] = name.removesuffix("_unread").removesuffix("_up_to")
        event["read_state_type"] = draw.randint(0, 1)
        event["channel_id"] = draw.randint(1, CHANNELS)
        if name in ("ack", "ack_unread", "mention", "retract_mention"):
            event["message_id"] = message
        if name == "ack" and draw.random() < 0.3:
            event["if_version"] = EPOCH | draw.randrange(1000 * number, 1000 * number + 1000)
        if name in ("ack", "set", "merge"):
            event["flags"] = draw.randint(0, 2)
        match name:
            case "mention" | "retract_mention" if draw.random() < 0.4:
                event["edit"] = draw.randint(0, 2)
            case "ack_unread":
                event["manual"] = True
                event["mention_ids"] = [message + 1, message + 2]
            case "pins_ack":
                event["timestamp"] = message
            case "merge":
                event["mention_ids"] = [message, message + 1]
            case "delete_up_to":
                event["up_to"] = message
    return events


def event_at(seed: int, offset: int) -> Event:
    """One event of the log."""
    return chunk(seed, offset // 1000)[offset % 1000]


class Owner:
    """Folds the log into a table as a partition does, and is the only one to write its users."""

    def __init__(self, table: Any, seed: int, database: dict[int, Rows], journal: int = -1) -> None:
        self.table, self.seed, self.database, self.journal = table, seed, database, journal
        self.random = random.Random()
        self.writes: list[tuple[int, int, list[Any]]] = []

    def note(self, what: Any) -> None:
        """What outlives the process; one system call, so it is there whole, or was not done."""
        if self.journal >= 0:
            data = marshal.dumps(what)
            os.write(self.journal, len(data).to_bytes(4, "little") + data)

    def fold(self, offset: int) -> None:
        event, version, table = event_at(self.seed, offset), EPOCH | (offset + 1), self.table
        user_id = event["user_id"]
        user = table.find(user_id)
        if user and event["type"] != "mention":
            table.touch(user)
        if not user:
            rows = list(self.database.get(user_id, {}).values())
            self.room(slots_of(rows), 0)
            user = table.insert(user_id, version, event["type"] == "mention", rows)
        decoded = wire.decode_update(orjson.dumps(event))
        while fold(table, user, decoded, version) == NO_ROOM:
            self.room(slots_needed(table, user, decoded), user)

    def room(self, needed: int, keep: int) -> None:
        while not self.table.evict(needed, 64, keep):
            self.take(16)
            self.finish(16)

    def take(self, limit: int) -> None:
        for _ in range(limit):
            if user := self.table.dirty_head():
                _, delete_version, rows = self.table.take(user)
                self.writes.append((user, delete_version, rows))

    def finish(self, limit: int) -> None:
        for user, delete_version, rows in self.writes[:limit]:
            write = (self.table.user_id(user), delete_version, rows)
            self.note(write)
            apply(self.database, write)
            self.table.written(user, delete_version, rows)
        del self.writes[:limit]

    def write_all(self) -> None:
        while self.writes or self.table.dirty_users:
            self.take(100)
            self.finish(100)

    def live(self, offset: int) -> NoReturn:
        """Until killed."""
        while True:
            self.fold(offset)
            offset += 1
            if offset % SLICE == 0:
                self.table.position = offset
                dice = self.random.random()
                if dice < 0.2:
                    self.take(3)
                elif dice < 0.4:
                    self.finish(2)
                elif offset % COMMIT < SLICE:
                    self.write_all()
                    self.note(offset)


def apply(database: dict[int, Rows], write: tuple[int, int, list[Any]]) -> None:
    """One user's changes reach the database."""
    user_id, delete_version, rows = write
    known = database.setdefault(user_id, {})
    for key in [key for key, row in known.items() if row[8] <= delete_version]:
        del known[key]
    for deleted, row in rows:
        known.pop(row[:2], None)
        if not deleted:
            known[row[:2]] = row


class Truth(Endless):
    """The log folded by dicts; nobody is ever evicted."""

    def __init__(self, seed: int) -> None:
        super().__init__(STATES_MAX)
        self.seed, self.position = seed, 0
        for user_id in range(1, USERS + 1):
            self.users[user_id] = User()

    def advance(self, position: int) -> Truth:
        for offset in range(self.position, position):
            event = event_at(self.seed, offset)
            user = self.users[event["user_id"]]
            if self.fold(event["user_id"], event, EPOCH | (offset + 1)) & CHANGED:
                user.rows = {k: row for k, row in user.rows.items() if not row.tombstone}
            user.first_version = user.delete_version = 0
            self.queue.clear()
        self.position = position
        return self


class World:
    """What outlives the processes, and the check of what they leave."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.path, self.copy = folder / "table", folder / "copy"
        self.journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.database: dict[int, Rows] = {}
        self.committed = 0
        self.written = 0  # the newest version in the database
        self.truth = Truth(seed)  # at the committed offset
        self.used = self.exact = self.ahead = 0
        self.dropped: list[str] = []

    def open(self, path: Path) -> tuple[tablefile.TableFile, int]:
        """The file and the offset from which the log is folded, as a new owner finds them."""
        file = open_table(path, IDENTITY, STATES, STATES_MAX)
        if file.warm and file.table.position < self.committed:
            assert file.table.resident_users == 0, "only of a file just made"
            file.close(clean=False)
            file = open_table(path, IDENTITY, STATES, STATES_MAX)
        if not file.warm:
            file.table.position = self.committed
        file.table.recover(EPOCH | (self.committed + 1))
        return file, file.table.position

    def live_and_die(self, life_s: float) -> None:
        """A process works on the file and is killed."""
        pid = os.fork()
        if pid == 0:
            try:
                file, offset = self.open(self.path)
                Owner(file.table, self.seed, self.database, self.journal).live(offset)
            except BaseException:  # noqa: BLE001 (it must not come back into pytest)
                traceback.print_exc()
            finally:
                os._exit(3)
        time.sleep(self.random.uniform(0, life_s))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the process failed before it was killed"
        self.read_journal()

    def read_journal(self) -> None:
        data = os.pread(self.journal, os.fstat(self.journal).st_size, 0)
        os.ftruncate(self.journal, 0)
        at = 0
        while at + 4 <= len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            if end > len(data):
                break  # cut off: the process did not go on either
            what = marshal.loads(data[at + 4 : end])
            at = end
            if isinstance(what, int):
                self.committed = what
            else:
                apply(self.database, what)
                self.written = max([self.written, what[1], *(row[8] for _, row in what[2])])
        self.truth.advance(self.committed)

    def check(self) -> None:
        """What the next owner makes of a copy of the file."""
        self.copy.write_bytes(self.path.read_bytes() if self.path.exists() else b"")
        file, position = self.open(self.copy)
        table = file.table
        if not file.warm:
            self.dropped.append(re.sub(r"\d+", "N", file.why))
            assert table.resident_users == 0
            file.close(clean=False)
            return
        self.used += 1
        table.save()
        assert fsck.check_bytes(self.copy.read_bytes(), saved=True) == []
        truth = copy.deepcopy(self.truth).advance(position)
        if self.written <= EPOCH | position:
            self.compare_before(table, truth, EPOCH | position)
        owner = Owner(table, self.seed, copy.deepcopy(self.database))
        # the slice that was cut short; and where an earlier table was dropped: to what it had done
        end = max(position + SLICE, self.written - EPOCH)
        for offset in range(position, end):
            owner.fold(offset)
        truth.advance(end)
        for user_id, known in truth.users.items():
            if user := table.find(user_id):
                assert everything(table, user) == known.everything()
        owner.write_all()
        verify(table)
        for user_id, known in truth.users.items():
            assert sorted(owner.database.get(user_id, {}).values()) == known.everything()
        file.close(clean=True)

    def compare_before(self, table: Any, truth: Truth, version: int) -> None:
        """All but what the slice that was cut short changed is as it must be at the position.

        Not so where the database is ahead, since an earlier table was dropped: what is loaded then
        may lack a read state that is deleted later. It is right again from there on.
        """
        self.exact += 1
        for user in residents(table):
            known = {row[:2]: row for row in truth.users[table.user_id(user)].everything()}
            for row in everything(table, user):
                if row[8] <= version:
                    assert row == known[row[:2]]
                else:
                    self.ahead += 1


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_killed_process_leaves_a_right_table_or_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = BUILDS[name]
    build.open_tables_with(monkeypatch)
    world = World(5, tmp_path)
    for number in range(KILLS):
        try:
            world.live_and_die(LIFE_S[name])
            world.check()
        except BaseException as exc:
            exc.add_note(f"{name}, kill {number}, committed {world.committed}")
            raise
    reasons = {why: world.dropped.count(why) for why in sorted(set(world.dropped))}
    print(
        f"\n{name}: {KILLS} kills, {world.used} tables used, {len(world.dropped)} dropped "
        f"{reasons}; {world.exact} compared at the position too, with {world.ahead} read states of "
        f"a slice cut short; {world.committed} events committed"
    )
    assert world.used > KILLS // 4
    assert world.exact > KILLS // 8
    os.close(world.journal)
