"""The bytes of a table do not change unless the layout's version does."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from readstates.cache import layout
from readstates.streams.config import Settings
from tests.support.table_builds import Build
from tests.support.table_sample import sample

GOLDEN = Path(__file__).parent / "golden"


def dump(buffer: bytearray) -> str:
    """Rows of 16 bytes that are not all zero, each after its byte_offset."""
    rows = ((at, buffer[at : at + 16]) for at in range(0, len(buffer), 16))
    return "".join(f"{at:06x} {row.hex()}\n" for at, row in rows if any(row))


def test_the_bytes_are_those_of_this_layout_version(build: Build) -> None:
    golden = GOLDEN / f"layout-{layout.LAYOUT_VERSION}.hex"
    assert dump(sample(build)) == golden.read_text(), "raise LAYOUT_VERSION, add a golden file"


def test_the_counts_of_a_user_hold_the_largest_setting() -> None:
    """They have 20 bits, and one more than the setting is for the mark of a final deletion."""
    (setting,) = (f for f in fields(Settings) if f.name == "user_states_max")
    assert setting.metadata["range"][1] + 1 < 1 << 20
    assert layout.SIDE_SLOTS_MAX + 1 < 1 << 20


def test_sizes() -> None:
    assert layout.slots_for(8_000) == 1 + 8_000 + 1_000
    assert layout.slots_for(100) == 1 + 100 + 64
    for slots in (2, 3, 165, 9_001):
        entries = layout.index_entries(slots)
        assert 1.5 * slots <= entries <= 1.5 * slots + 2
        assert layout.table_size_bytes(slots) == 4096 + 64 * slots + 4 * entries
        assert layout.table_size_bytes(slots) % 8 == 0
