"""fsck finds nothing in a sound file, and in a damaged one names the invariant; so does verify."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from readstates.cache import fsck, layout
from readstates.cache.image import Image, checksum
from readstates.cache.tablefile import open_table
from tests.support.table_builds import IDENTITY, Build, new_buffer
from tests.support.table_sample import SLOTS, sample

INDEX_AT = layout.HEADER_BYTES + SLOTS * layout.SLOT_BYTES


def put(form: str, slot: int, field: int, value: int) -> Callable[[bytearray], None]:
    """Overwrite a field of a slot, and make the slot's checksum right again."""

    def change(buffer: bytearray) -> None:
        byte_offset = layout.HEADER_BYTES + slot * layout.SLOT_BYTES
        struct.pack_into(f"<{form}", buffer, byte_offset + field, value)
        image = Image(bytes(buffer))
        found = image.user.get(slot) or image.state.get(slot) or image.extension.get(slot)
        if found is not None:
            struct.pack_into("<H", buffer, byte_offset + 62, checksum(found))

    return change


def put_header(byte_offset: int, value: int) -> Callable[[bytearray], None]:
    """Overwrite a number of the header."""
    return lambda buffer: struct.pack_into("<q", buffer, byte_offset, value)


def empty_index(buffer: bytearray) -> None:
    """Take one slot out of the index."""
    places = struct.unpack_from(f"<{layout.index_entries(SLOTS)}I", buffer, INDEX_AT)
    struct.pack_into("<I", buffer, INDEX_AT + 4 * places.index(4), 0)


def move_index(buffer: bytearray) -> None:
    """Move one slot to an entry where no probe meets it."""
    places = struct.unpack_from(f"<{layout.index_entries(SLOTS)}I", buffer, INDEX_AT)
    far = (places.index(4) - 2) % len(places)
    while places[far] or places[far - 1]:
        far -= 1
    empty_index(buffer)
    struct.pack_into("<I", buffer, INDEX_AT + 4 * far, 4)


def flip(slot: int, field: int) -> Callable[[bytearray], None]:
    """Change a bit of a slot, which its checksum then tells."""

    def change(buffer: bytearray) -> None:
        buffer[layout.HEADER_BYTES + slot * layout.SLOT_BYTES + field] ^= 1

    return change


DAMAGE: list[tuple[str, Callable[[bytearray], None]]] = [
    ("I1", put("B", 4, 61, layout.USER | layout.STATE)),
    ("I1", put_header(layout.AT_FREE_HEAD, 4)),
    ("I1", put_header(layout.AT_FREE_HEAD, 0)),
    ("I1", put("I", 20, 52, 19)),  # the free list runs in a circle
    ("I1", put("q", 19, 8, 1)),  # a free slot holds something
    ("I1", put("q", 30, 8, 1)),  # so does one never used
    ("I1", put("B", 12, 61, layout.EXTENSION | layout.DIRTY)),
    ("I1", put("B", 12, 60, 0)),  # an extension without entries
    ("I1", put("B", 12, 60, 4)),  # or with more than it has room for
    ("I1", put("B", 7, 61, layout.STATE | layout.DIRTY | layout.TOMBSTONE | layout.HIDDEN)),
    ("I2", empty_index),
    ("I2", move_index),
    ("I3", put("I", 4, 48, 1)),
    ("I3", put("I", 4, 56, 8)),
    ("I3", put("I", 1, 48, 0)),
    ("I3", put("I", 4, 52, 5)),
    ("I4", put("I", 3, 36, 1)),
    ("I4", put("I", 3, 32, 3)),
    ("I4", put_header(layout.AT_LRU_TAIL, 3)),
    ("I5", put_header(layout.AT_DIRTY_HEAD, 0)),
    ("I5", put("q", 1, 16, 0)),
    ("I5", put("I", 1, 40, 1)),
    ("I6", put("B", 6, 61, layout.USER)),
    ("I6", put("q", 3, 24, 5)),
    ("I7", put("B", 7, 61, layout.STATE | layout.TOMBSTONE)),
    ("I8", put_header(layout.AT_STATES, 9)),
    ("I8", put_header(layout.AT_DIRTY_STATES, 9)),
    ("I8", put_header(layout.AT_FREE, 9)),
    ("I9", flip(4, 8)),  # a bit of a message ID
    ("I9", flip(12, 16)),  # and in an extension
    ("I9", flip(12, 52)),  # its link to the next one
    ("I9", flip(12, 48)),  # its owner
    ("I10", put("H", 1, 52, 2)),
    ("I10", put("H", 9, 52, 2)),
    ("I10", put("H", 9, 54, 5)),
    ("I10", put("B", 9, 60, 1)),  # the upper bits of the shown ones
    ("I10", put("B", 9, 60, 1 << 4)),  # of the side slots
    ("I11", put("B", 3, 61, layout.USER | layout.PARTIAL)),
    ("I12", put("q", 1, 24, 8)),
    ("I13", put_header(layout.AT_POSITION, 98)),
    ("I14", put("I", 12, 48, 13)),  # another owner
    ("I14", put("I", 12, 52, 0)),  # the chain ends too early
    ("I14", put("I", 12, 52, 13)),  # it leads to a read state,
    ("I14", put("I", 12, 52, 30)),  # to a free slot,
    ("I14", put("I", 12, 52, 16)),  # to the extension of another,
    ("I14", put("I", 11, 52, 12)),  # or back
    ("I14", put("q", 10, 16, 0)),  # EXTENDED, and no extension
    ("I14", put("q", 10, 16, 4)),  # or something else
    ("I14", put("B", 10, 61, layout.STATE)),  # extensions of a state that is not EXTENDED
    ("I15", put("I", 10, 40, 4)),  # more mentions than marks
    ("I15", put("I", 2, 40, 2)),
    ("I15", put("I", 2, 40, 0)),  # a last mention, and none
    ("I15", put("q", 2, 16, 500)),  # a mention that was read
    ("I15", put("q", 10, 8, 101)),  # a mark that was read (M2)
    ("I15", put("q", 12, 0, 103)),  # marks out of order (M3)
    ("I15", put("q", 12, 24, 1 << 35)),  # no such rank
    ("I15", put("q", 11, 24, 7 << 40)),  # no such tag
    ("I15", put("q", 11, 8, 3 << 40)),  # a mark after another tag
    ("I15", put("q", 14, 8, 0)),  # the only entry is a plain mention (M3)
    ("I15", put("I", 15, 44, 1)),  # deleted up to a message, and shown (M4)
    ("I15", put("q", 13, 8, 1)),  # hidden, and not all zero
    ("I15", put("B", 13, 61, layout.STATE | layout.DIRTY | layout.EXTENDED)),
    ("I15", put("B", 17, 61, layout.USER | layout.QUEUED)),  # the mark of a user not FINAL
    ("I15", put("B", 3, 61, layout.USER | layout.FINAL)),  # FINAL without a mark
]


def test_a_sound_table_has_no_problems(build: Build) -> None:
    assert fsck.check_bytes(bytes(sample(build)), saved=True) == []
    assert fsck.check_bytes(bytes(new_buffer(SLOTS)), saved=True) == []


@pytest.mark.parametrize(("invariant", "change"), DAMAGE)
def test_damage_is_named(build: Build, invariant: str, change: Callable[[bytearray], None]) -> None:
    buffer = sample(build)
    change(buffer)
    found = fsck.check_bytes(bytes(buffer), saved=True)
    assert invariant in {problem.split(":")[0] for problem in found}
    with pytest.raises(layout.TableDamaged, match=r"^(I\d+: |a link)"):
        build.verify(buffer)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table"
    file = open_table(path, IDENTITY, 50, 8)
    user = file.table.insert(1, 0, False)
    file.table.ack(user, 0, 5, 6, -1, -1, 7)
    assert fsck.main([str(path)]) == 0
    assert "not closed clean" in capsys.readouterr().out
    file.close(clean=True)
    before = path.read_bytes()
    assert fsck.main([str(path)]) == 0
    expected = "sound: partition 3, epoch 8, keyspace read_states, position 0, 114 slots, 1 users"
    assert capsys.readouterr().out == f"{expected}, 1 read states, 1 dirty\n"
    assert path.read_bytes() == before

    flipped = bytearray(before)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    assert fsck.main([str(path)]) == 1
    assert "checksum of the whole file" in capsys.readouterr().out
    path.write_bytes(before[:-8])
    assert fsck.main([str(path)]) == 2
    path.write_bytes(b"something else")
    assert fsck.main([str(path)]) == 2
    assert fsck.main([str(tmp_path / "none")]) == 2
    assert fsck.main([]) == 2


def test_a_ruined_file_does_not_flood(build: Build) -> None:
    buffer = sample(build)
    buffer[layout.HEADER_BYTES :] = b"\xa5" * (len(buffer) - layout.HEADER_BYTES)
    assert 0 < len(fsck.check_bytes(bytes(buffer), saved=True)) <= fsck.PROBLEMS_MAX
