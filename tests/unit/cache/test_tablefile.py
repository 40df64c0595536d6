"""Opening, using again, dropping and locking table files."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import stat
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from readstates.cache import layout, tablefile
from readstates.cache.tablefile import CacheDirFullError, TableFile, open_table, table_size_bytes
from tests.support.table_builds import IDENTITY

STATES = 100


def opened(path: Path, **other: Any) -> TableFile:
    """The file as its owner opens it."""
    return open_table(path, replace(IDENTITY, **other), STATES, 50)


def fill(file: TableFile) -> None:
    """Users 1-3 with two read states each, all dirty; user 2's are under way."""
    for user_id in (1, 2, 3):
        user = file.table.insert(user_id, 0, False)
        file.table.ack(user, 0, 1, 10, -1, -1, user_id * 10)
        file.table.ack(user, 0, 2, 10, -1, -1, user_id * 10 + 1)
    file.table.take(file.table.find(2))
    file.table.position = 77


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A file that was filled and closed clean."""
    path = tmp_path / "table"
    file = opened(path)
    fill(file)
    file.close(clean=True)
    return path


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "table"
    file = opened(path)
    assert (file.warm, file.why, file.private) == (False, "new", False)
    assert file.table.free >= STATES + STATES // 8
    assert path.stat().st_size == table_size_bytes(STATES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_blocks * 512 >= path.stat().st_size  # reserved, not sparse
    file.close(clean=False)
    file.close(clean=False)


def test_a_file_closed_clean_is_used_again(used: Path) -> None:
    file = open_table(used, IDENTITY, STATES, 50, now_ms=5_000)
    table = file.table
    assert (file.warm, file.why) == (True, "closed clean")
    assert table.recover(9) == 3
    assert table.position == 77
    assert table.states(table.find(3)) == [
        (0, 1, 10, 0, 0, 0, 0, 0, 30, b""),
        (0, 2, 10, 0, 0, 0, 0, 0, 31, b""),
    ]
    # what was under way is dirty again, first in the queue, and all of it waits since now
    assert table.dirty_head() == table.find(2)
    assert (table.first_version(table.find(2)), table.dirty_users) == (9, 3)
    assert [table.dirty_since_ms(table.find(n)) for n in (1, 2, 3)] == [5_000] * 3
    file.close(clean=True)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"topic_id": bytes(16)}, "of another log"),
        ({"epoch": 9}, "of another log"),
        ({"partition": 4}, "of another log"),
        ({"keyspace": "other"}, "of another log"),
    ],
)
def test_a_file_of_another_log_is_dropped(used: Path, other: dict[str, Any], why: str) -> None:
    file = opened(used, **other)
    assert (file.warm, file.why, file.table.resident_users) == (False, why, 0)
    file.close(clean=False)


def test_a_file_of_another_size_or_layout_is_dropped(used: Path) -> None:
    data = bytearray(used.read_bytes())
    file = open_table(used, IDENTITY, 2 * STATES, 50)
    assert not file.warm
    assert "CACHE_STATES" in file.why
    file.close(clean=False)
    struct.pack_into("<I", data, layout.AT_LAYOUT, layout.LAYOUT_VERSION + 1)
    used.write_bytes(data)
    file = opened(used)
    assert (file.warm, file.why) == (False, "not a table file of this layout")
    file.close(clean=False)


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Another process that has the file open, has touched it, and waits."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from readstates.cache.tablefile import TableIdentity, open_table\n"
        "file = open_table(Path(sys.argv[1]), "
        f"TableIdentity({IDENTITY.topic_id!r}, 8, 3, 'read_states'), {STATES}, 50)\n"
        "file.table.recover(9)\n"
        "user = file.table.find(3)\n"
        "file.table.ack(user, 0, 7, 70, -1, -1, 80)\n"
        "file.table.position = 81\n"
        "print('.', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"."
    return process


def test_a_stopped_process_keeps_its_file_and_a_dead_one_leaves_it(used: Path) -> None:
    process = hold(used)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        file = opened(used)
        assert (file.private, file.warm) == (True, False)
        file.close(clean=True)
    finally:
        process.kill()
        process.communicate()
    file = opened(used)
    table = file.table
    assert (file.private, file.warm, file.why) == (False, True, tablefile.DIED)
    assert table.position == 81
    assert table.recover(9) == 3
    assert [row[1] for row in table.states(table.find(3))] == [1, 2, 7]
    file.close(clean=True)


def died(used: Path) -> bytearray:
    """The file as a process that died leaves it."""
    file = opened(used)
    data = bytearray(used.read_bytes())
    file.close(clean=False)
    used.write_bytes(data)
    return data


@pytest.mark.parametrize("booted", [bytes(36), b"x" * 36])
def test_a_died_file_of_another_boot_is_dropped(used: Path, booted: bytes) -> None:
    data = died(used)
    data[layout.AT_BOOT_ID : layout.AT_BOOT_ID + 36] = booted
    used.write_bytes(data)
    file = opened(used)
    assert not file.warm
    assert file.why == "not closed clean, and the machine may have rebooted since"
    file.close(clean=False)


def test_where_the_kernel_names_no_boot_a_died_file_is_dropped(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tablefile, "boot_id", lambda: tablefile.NO_BOOT_ID)
    died(used)
    file = opened(used)
    assert not file.warm
    file.close(clean=False)


def test_a_died_file_with_a_torn_slot_is_dropped(used: Path) -> None:
    data = died(used)
    data[layout.HEADER_BYTES + 2 * layout.SLOT_BYTES + 8] ^= 1
    used.write_bytes(data)
    file = opened(used)
    assert (file.warm, file.table.resident_users) == (False, 0)
    assert file.why.startswith("damaged: I9")
    file.close(clean=False)


def test_a_file_given_up_is_dropped(used: Path) -> None:
    opened(used).close(clean=False)
    file = opened(used)
    assert (file.warm, file.why, file.table.resident_users) == (False, "given up by its owner", 0)
    file.close(clean=False)


def test_a_second_opener_gets_a_private_file(used: Path) -> None:
    first = opened(used)
    before = used.read_bytes()
    second = opened(used)
    assert (first.private, second.private, second.warm) == (False, True, False)
    assert second.path != used
    assert second.table.resident_users == 0
    fill(second)
    second.close(clean=True)
    assert used.read_bytes() == before
    assert list(used.parent.iterdir()) == [used]
    first.close(clean=True)
    third = opened(used)
    assert third.warm
    third.close(clean=False)


def test_no_room_names_the_file_the_size_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "table"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(CacheDirFullError) as raised:
            opened(path)
    message = str(raised.value)
    for part in (str(path), str(table_size_bytes(STATES)), "CACHE_DIR", "CACHE_STATES"):
        assert part in message
    assert path.stat().st_size == 0
    file = opened(path)  # nothing is locked or half made
    assert not file.private
    file.close(clean=False)


def test_damage_under_a_right_checksum_is_found(used: Path) -> None:
    data = bytearray(used.read_bytes())
    data[layout.HEADER_BYTES + layout.SLOT_BYTES + 52] += 1  # the first user's count
    used.write_bytes(data)
    with used.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        struct.pack_into("<I", mapped, layout.AT_CRC, tablefile._crc(mapped))
    file = opened(used)
    assert not file.warm
    assert file.why.startswith("damaged: I10")
    file.close(clean=False)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "table").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="table"):
        opened(tmp_path / "table")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o606, 0o666, 0o700, 0o400], ids=oct)
def test_a_file_that_is_not_ours_alone_is_made_anew(used: Path, mode: int) -> None:
    used.chmod(mode)
    with used.open("rb") as theirs:
        before = theirs.read()
        file = opened(used)
        assert (file.warm, file.private) == (False, False)
        assert file.why == f"its mode is {mode:o}, not 600"
        assert file.table.resident_users == 0
        assert stat.S_IMODE(used.stat().st_mode) == 0o600
        fill(file)
        file.close(clean=True)
        theirs.seek(0)
        assert theirs.read() == before  # who has the old one open sees nothing of the new one
    file = opened(used)
    assert file.why == tablefile.CLEAN
    file.close(clean=False)


def test_a_file_of_somebody_else_is_made_anew(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = used.stat().st_ino
    with used.open("rb"), monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: used.stat().st_uid + 1)
        file = opened(used)
    assert not file.warm
    assert file.why.startswith("it belongs to user")
    assert used.stat().st_ino != before
    file.close(clean=False)


def test_a_file_with_another_name_is_made_anew(used: Path) -> None:
    other = used.with_name("other")
    other.hardlink_to(used)
    before = other.read_bytes()
    file = opened(used)
    why = "it has 2 hard links: it may also be another file of ours"
    assert (file.warm, file.why) == (False, why)
    file.close(clean=False)
    assert other.read_bytes() == before
