"""Files that an earlier release wrote: `golden/layout-N-*.hex` are their bytes.

Those of this layout are used again: one was closed clean, one is of a process that was killed. Both
hold the same four users. One is changed, one clean, one being written out and changed again
meanwhile, and one deleted for good. A file of an earlier layout is dropped: its users are loaded,
and the log is folded again.

`python -m tests.unit.cache.test_earlier_files` makes the files of this layout. That is done once
for a layout; afterwards they stay as they are, whatever becomes of the code.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from readstates.cache import fsck, layout, tablefile
from readstates.cache.tablefile import CLEAN, DIED, open_table
from tests.support.table_builds import IDENTITY, Build, entries, everything, is_final, residents

GOLDEN = Path(__file__).parent / "golden"
STATES, STATES_MAX = 16, 8
BOOT_ID = b"00000000-0000-4000-8000-000000000000"  # what stands in the files
FOR_GOOD = 1 << 33 | 1
FIVE = entries((0, 501, 0), (0, 502, 4), (0, 503, 1), (1, 500, 7), (2, 6, 0))
GONE = entries((0, 905, FOR_GOOD), (3, 900, 0))


def state(channel: int, version: int, message: int = 500) -> tuple[Any, ...]:
    return (0, channel, message, 700, 1, 1_700_000_000_000, 6, 19_000, version, b"")


MARKED = (0, 23, 400, 502, 9, 0, 0, 0, 9, FIVE)
RETRACTION = (0, 24, 0, 0, 0, 0, 0, 0, 10, entries((0, 77, FOR_GOOD)))
FINAL = (0, 0, 0, 0, 0, 0, 0, 0, 11, b"")


def fill(table: Any) -> None:
    """What the files of this layout hold."""
    table.now_ms = 1_000
    first = table.insert(1001, 5, False, [state(21, 6)])
    table.insert(1002, 6, False, [state(21, 7), state(22, 8), MARKED, RETRACTION])
    third = table.insert(1003, 7, False, [state(21, 7), state(22, 8), MARKED])
    table.insert(1004, 8, True, [FINAL])
    table.ack(first, 0, 21, 600, -1, -1, 20)
    table.mention(third, 0, 21, 900, 21)
    table.take(third)
    table.delete(third, 0, 22, 900, 22)
    table.mark(third, 0, 22, 905, FOR_GOOD, 23)
    table.delete(third, 0, 23, 0, 24)
    table.position = 42


def write(name: str, path: Path) -> None:
    """The file of a dump: its size, then its rows that are not zero, each after its place."""
    size, *rows = (GOLDEN / f"layout-{name}.hex").read_text().splitlines()
    data = bytearray(int(size, 16))
    for row in rows:
        at, values = row.split()
        data[int(at, 16) : int(at, 16) + 16] = bytes.fromhex(values)
    path.write_bytes(data)
    path.chmod(0o600)


@pytest.mark.parametrize(("name", "why"), [("3-clean", CLEAN), ("3-died", DIED)])
def test_a_file_of_this_layout_opens_warm(
    build: Build, name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.open_tables_with(monkeypatch)
    monkeypatch.setattr(tablefile, "boot_id", lambda: BOOT_ID)
    path = tmp_path / "table"
    write(name, path)
    file = open_table(path, IDENTITY, STATES, STATES_MAX)
    assert (file.warm, file.why) == (True, why)
    table = file.table
    assert (table.position, table.dirty_states, table.resident_states) == (42, 4, 5)
    assert [table.user_id(user) for user in residents(table)] == [1003, 1002, 1001, 1004]
    assert table.recover(9) == 2
    first, second, third, fourth = (table.find(1001 + number) for number in range(4))
    acked = state(21, 20, 600)
    assert (table.floor(first), table.states(first)) == (5, [acked])
    assert table.take(first) == (9, 0, [(False, acked)])
    shown = [state(21, 7), state(22, 8), MARKED]
    assert (table.floor(second), table.states(second)) == (6, shown)
    assert everything(table, second) == [*shown, RETRACTION]
    marks = entries((0, 700, 0), (0, 900, 0))
    twice = (0, 21, 500, 900, 2, 1_700_000_000_000, 6, 19_000, 21, marks)
    assert (table.floor(third), table.states(third)) == (24, [twice])
    version, delete_version, rows = table.take(third)
    assert (version, delete_version) == (9, 0)
    assert sorted(rows) == [
        (False, twice),
        (False, (0, 22, 0, 0, 0, 0, 0, 0, 23, GONE)),
        (True, (0, 23, 0, 0, 0, 0, 0, 0, 24, b"")),
    ]
    assert is_final(table, fourth)
    assert everything(table, fourth) == [FINAL]
    file.close(clean=True)
    assert fsck.check(path) == []


def test_a_file_of_layout_2_is_dropped(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts mentions and does not say of which messages."""
    build.open_tables_with(monkeypatch)
    monkeypatch.setattr(tablefile, "boot_id", lambda: BOOT_ID)
    path = tmp_path / "table"
    write("2-clean", path)
    file = open_table(path, IDENTITY, 8, STATES_MAX)
    assert (file.warm, file.why) == (False, "not a table file of this layout")
    assert (file.table.resident_users, file.table.position) == (0, 0)
    file.close(clean=True)
    assert fsck.check(path) == []


def dump(path: Path) -> str:
    """The bytes of a file as `write` reads them."""
    data = path.read_bytes()
    rows = ((at, data[at : at + 16]) for at in range(0, len(data), 16))
    lines = [f"{len(data):06x}", *(f"{at:06x} {row.hex()}" for at, row in rows if any(row))]
    return "\n".join(lines) + "\n"


def make() -> None:
    """Write the files of this layout into `golden/`."""
    tablefile.boot_id = lambda: BOOT_ID
    for name in ("clean", "died"):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "table"
            file = open_table(path, IDENTITY, STATES, STATES_MAX)
            fill(file.table)
            if name == "clean":
                file.close(clean=True)
            golden = GOLDEN / f"layout-{layout.LAYOUT_VERSION}-{name}.hex"
            golden.write_text(dump(path))
            file.close(clean=False)


if __name__ == "__main__":
    make()
