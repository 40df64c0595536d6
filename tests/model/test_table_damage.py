"""Bytes flipped at random: a closed file is dropped, a table in use raises; nothing crashes.

The file of a process that died is dropped, or its content is right.

Both builds run in this process, so a crash or an endless walk would end the tests.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from readstates.cache import fsck, layout, tablefile
from tests.support.table_builds import (
    BUILDS,
    IDENTITY,
    Build,
    everything,
    get,
    is_final,
    new_buffer,
    residents,
    verify,
)

SLOTS = 200
ROUNDS = {"compiled": 1_500, "plain": 150}
FILES = {"compiled": 300, "plain": 40}
FOR_GOOD = 1 << 33 | 1  # the rank of a retraction of a deleted message
COVERED = layout.AT_BOOT_ID  # of the header; the rest of it is spare


def filled(build: Build, buffer: Any, seed: int) -> Any:
    """A busy table: residents clean, dirty and under way, extensions, tombstones, freed slots."""
    table = build.Table(buffer, 20)
    draw = random.Random(seed)
    for step in range(400):
        busy(table, draw, step + 1)
    return table


def busy(table: Any, draw: random.Random, version: int) -> None:
    """One operation of any kind on any user."""
    user_id = draw.randint(1, 25)
    user = table.find(user_id)
    if not user:
        if table.evict(3, 50):
            row = (0, 99, 1, 2, 1, 1, 1, 1, version, b"")
            table.insert(user_id, version, draw.random() < 0.5, [row])
        return
    kind, channel, message = draw.randint(0, 1), draw.randint(1, 9), draw.randint(1, 99)
    if is_final(table, user):
        if draw.random() < 0.2:
            table.restore_user(user, version)
        return
    match draw.randint(0, 15):
        case 0:
            table.touch(user)
        case 1 | 2 | 3:
            table.ack(user, kind, channel, message, -1, -1, version)
        case 4 | 5:
            table.mention(user, kind, channel, message, version)
        case 6:
            table.delete(user, kind, channel, message * draw.randint(0, 1), version)
        case 7:
            table.states(user)
            get(table, user, kind, channel)
        case 8:
            if draw.random() < 0.2:
                table.delete_user(user, version, draw.random() < 0.5)
        case 9 | 10:
            head = table.dirty_head()
            if head and draw.random() < 0.7:
                _, delete_version, rows = table.take(head)
                if draw.random() < 0.8:
                    table.written(head, delete_version, rows)
                else:
                    table.write_failed(head, 1, 0)
        case 11:
            table.cold_dirty(5)
        case 12 | 13:
            rank = draw.choice((2, 3, FOR_GOOD))
            table.mark(user, kind, channel, message, rank, version)
        case 14:
            table.mark_unread(user, kind, channel, message, 3, None, -1, -1, version)
        case 15:
            table.merge(user, kind, channel, 0, (message, message + 1), -1, 1, -1, 0, version)


def contents(table: Any) -> list[Any]:
    """What a reader can see."""
    return [
        (table.user_id(user), table.floor(user), table.states(user), everything(table, user))
        for user in residents(table)
    ]


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_damage_in_use_raises_and_never_crashes(name: str) -> None:
    build = BUILDS[name]
    original = new_buffer(SLOTS)
    table = filled(build, original, seed=1)
    expected = contents(table)
    table.close()
    raised = 0
    refused: list[str] = []
    for seed in range(ROUNDS[name]):
        draw = random.Random(seed)
        buffer = bytearray(original)
        table = build.Table(buffer, 20)
        # aim at slots and the index: half the flips at links and status bytes
        for _ in range(draw.choice([1, 1, 3, 30])):
            at = draw.randrange(layout.HEADER_BYTES, len(buffer))
            if draw.random() < 0.5:
                at = at // 64 * 64 + draw.randint(32, 61)
            if at < len(buffer):
                buffer[at] = draw.randrange(256)
        try:
            verify(table)
        except layout.TableDamaged:
            raised += 1
        else:  # what was hit says nothing
            assert contents(table) == expected
            assert fsck.check_bytes(bytes(buffer), saved=True) == []
        try:
            for step in range(300):
                busy(table, draw, 1_000 + step)
        except (layout.TableDamaged, build.table.TableFull, IndexError):
            pass
        except ValueError as exc:  # the damage made a call look wrong
            refused.append(str(exc))
        table.close()
    assert raised > ROUNDS[name] // 2
    for message in refused:
        assert any(part in message for part in ("is resident", "valid read state", "is under way"))


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_damaged_header_raises_and_never_crashes(name: str) -> None:
    build = BUILDS[name]
    original = new_buffer(SLOTS)
    filled(build, original, seed=2).close()
    for seed in range(ROUNDS[name]):
        draw = random.Random(seed)
        buffer = bytearray(original)
        at = draw.randrange(layout.AT_SLOTS, layout.AT_CRC)
        buffer[at] ^= 1 << draw.randrange(8)
        try:
            table = build.Table(buffer, 20)
        except layout.TableDamaged:
            continue
        try:
            verify(table)
        except layout.TableDamaged:
            continue
        finally:
            table.close()
        raise AssertionError(f"byte {at} of the header says nothing")


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_damaged_file_is_dropped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = BUILDS[name]
    build.open_tables_with(monkeypatch)
    path = tmp_path / "table"
    file = tablefile.open_table(path, IDENTITY, 100, 20)
    draw = random.Random(3)
    for step in range(400):
        busy(file.table, draw, step + 1)
    file.close(clean=True)
    sound = path.read_bytes()
    for seed in range(FILES[name]):
        draw = random.Random(seed)
        data = bytearray(sound)
        while data == sound:
            for _ in range(draw.choice([1, 5])):
                at = draw.randrange(COVERED + len(data) - layout.HEADER_BYTES)
                at += (at >= COVERED) * (layout.HEADER_BYTES - COVERED)
                if not layout.AT_CRC + 4 <= at < COVERED:
                    data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        file = tablefile.open_table(path, IDENTITY, 100, 20)
        assert not file.warm
        assert file.table.resident_users == 0
        verify(file.table)
        file.close(clean=False)


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_damaged_died_file_is_dropped_or_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = BUILDS[name]
    build.open_tables_with(monkeypatch)
    path = tmp_path / "table"
    file = tablefile.open_table(path, IDENTITY, 100, 20)
    draw = random.Random(4)
    for step in range(400):
        busy(file.table, draw, step + 1)
    file.table.position = 77
    died, expected = path.read_bytes(), sorted(contents(file.table))
    dirty = file.table.dirty_states
    file.close(clean=False)
    right = 0
    for seed in range(FILES[name]):
        draw = random.Random(seed)
        data = bytearray(died)
        for _ in range(draw.choice([1, 1, 1, 5])):
            at = draw.randrange(layout.AT_TOPIC_ID, len(data))
            data[at] = draw.randrange(256)
        path.write_bytes(data)
        file = tablefile.open_table(path, IDENTITY, 100, 20)
        if file.warm:
            right += 1
            assert sorted(contents(file.table)) == expected
            assert (file.table.dirty_states, file.table.position) == (dirty, 77)
        else:
            assert file.table.resident_users == 0
        verify(file.table)
        file.close(clean=False)
    assert 0 < right < FILES[name]  # links, counts and the index say nothing then
