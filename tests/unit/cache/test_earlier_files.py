"""Files that an earlier release wrote are used again: `golden/layout-2-*.hex` are its bytes.

One was closed clean, one is of a process that was killed. Both hold the same three users, of whom
one is changed, one clean, and one being written out and changed again meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from readstates.cache import fsck, tablefile
from readstates.cache.tablefile import CLEAN, DIED, open_table
from tests.support.table_builds import IDENTITY, Build, residents

GOLDEN = Path(__file__).parent / "golden"
STATES, STATES_MAX = 8, 8
BOOT_ID = b"00000000-0000-4000-8000-000000000000"  # what stands in the files


def write(name: str, path: Path) -> None:
    """The file of a dump: its size, then its rows that are not zero, each after its place."""
    size, *rows = (GOLDEN / f"layout-2-{name}.hex").read_text().splitlines()
    data = bytearray(int(size, 16))
    for row in rows:
        at, values = row.split()
        data[int(at, 16) : int(at, 16) + 16] = bytes.fromhex(values)
    path.write_bytes(data)
    path.chmod(0o600)


def state(kind: int, channel: int, version: int, message: int = 500) -> tuple[int, ...]:
    return (kind, channel, message, 400, 3, 1_700_000_000_000, 6, 19_000, version)


@pytest.mark.parametrize(("name", "why"), [("clean", CLEAN), ("died", DIED)])
def test_a_file_of_an_earlier_release_opens_warm(
    build: Build, name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.open_tables_with(monkeypatch)
    monkeypatch.setattr(tablefile, "boot_id", lambda: BOOT_ID)
    path = tmp_path / "table"
    write(name, path)
    file = open_table(path, IDENTITY, STATES, STATES_MAX)
    assert (file.warm, file.why) == (True, why)
    table = file.table
    assert (table.position, table.dirty_states, table.resident_states) == (42, 4, 6)
    assert [table.user_id(user) for user in residents(table)] == [1003, 1001, 1002]
    assert table.recover(9) == 2
    first, second, third = (table.find(1001 + number) for number in range(3))
    acked = (0, 21, 600, 400, 0, 1_700_000_000_000, 6, 19_000, 20)
    assert (table.floor(first), table.states(first)) == (5, [acked])
    assert table.take(first) == (9, 0, [(False, acked)])
    assert (table.floor(second), table.states(second)) == (6, [state(0, 21, 7), state(0, 22, 8)])
    later = [
        (0, 21, 800, 400, 0, 1_700_000_000_000, 9, 19_000, 23),
        state(0, 23, 9),
        (0, 30, 0, 700, 1, 0, 0, 0, 21),
    ]
    assert (table.floor(third), table.states(third)) == (22, later)
    version, delete_version, rows = table.take(third)
    deleted = (True, (0, 22, 0, 0, 0, 0, 0, 0, 22))
    assert (version, delete_version) == (9, 0)
    assert sorted(rows) == [(False, later[0]), (False, later[2]), deleted]
    file.close(clean=True)
    assert fsck.check(path) == []
