"""Both builds of the table: compiled, where there is one, and plain Python from the source.

What tests ask of a table and the service does not, is here too, by way of the bytes.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import readstates.cache
from readstates.cache import (
    deletions,
    kernel,
    layout,
    marked,
    marks,
    rebuild,
    slots,
    table,
    tablefile,
)
from readstates.cache import verify as verify_module
from readstates.cache.image import Image
from readstates.cache.tablefile import TableIdentity, new_header
from readstates.schemas.read_state import Row

IDENTITY = TableIdentity(bytes(range(16)), 8, 3, "read_states")


@dataclass(frozen=True)
class Build:
    """The modules that are compiled, in one of their forms."""

    layers: tuple[ModuleType, ...]  # the four modules of the table, from the kernel up
    marks: ModuleType
    slots: ModuleType
    rebuild_module: ModuleType
    verify_module: ModuleType

    @property
    def table(self) -> ModuleType:
        return self.layers[-1]

    @property
    def Table(self) -> Any:
        return self.table.Table

    def rebuild(self, buffer: object) -> None:
        self.rebuild_module.rebuild(buffer)

    def verify(self, buffer: object) -> None:
        self.verify_module.verify(buffer)

    def open_tables_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have `open_table` use this build."""
        monkeypatch.setattr(tablefile, "Table", self.table.Table)
        monkeypatch.setattr(tablefile, "rebuild", self.rebuild)
        monkeypatch.setattr(tablefile, "verify", self.verify)


def _from_source(name: str) -> ModuleType:
    source = Path(readstates.cache.__path__[0]) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"readstates.cache.{name}_plain", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    assert not module.COMPILED
    return module


def _plain_layers() -> tuple[ModuleType, ...]:
    """Each imports the one below it by its name, and is given the plain one."""
    layers: list[ModuleType] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kernel", "marked", "deletions", "table"):
            layers.append(_from_source(name))
            patch.setitem(sys.modules, f"readstates.cache.{name}", layers[-1])
    modules = [layer.__name__ for layer in reversed(layers)]
    assert [base.__module__ for base in layers[-1].Table.__mro__[:-1]] == modules
    return tuple(layers)


def _plain() -> Build:
    names = ("marks", "slots", "rebuild", "verify")
    plain = Build(_plain_layers(), *map(_from_source, names))
    for module in (plain.rebuild_module, plain.verify_module):
        vars(module)["slots"] = plain.slots  # not the compiled ones, which they imported
    for module in (plain.layers[0], plain.verify_module):
        vars(module)["Marks"] = plain.marks.Marks
    return plain


PLAIN = _plain()
BUILDS = {"plain": PLAIN}
if table.COMPILED:
    assert all(module.COMPILED for module in (kernel, marked, deletions))
    assert marks.COMPILED
    assert slots.COMPILED
    assert rebuild.COMPILED
    assert verify_module.COMPILED
    BUILDS["compiled"] = Build(
        (kernel, marked, deletions, table), marks, slots, rebuild, verify_module
    )


def new_buffer(slots: int) -> bytearray:
    """An empty table of so many slots, slot 0 included, in memory."""
    buffer = bytearray(layout.table_size_bytes(slots))
    buffer[: layout.HEADER_BYTES] = new_header(IDENTITY, slots)
    return buffer


def entries(*each: tuple[int, int, int]) -> bytes:
    """The entries of a read state as a row has them: tag, value and payload of each."""
    packed = (struct.pack("<qQ", value, tag << 40 | payload) for tag, value, payload in each)
    return b"".join(packed)


def verify(table: Any) -> None:
    """Check I1-I15 of a table in use, with the pass of its own build."""
    table.save()
    plain = isinstance(table, PLAIN.Table)
    (PLAIN if plain else verify_module).verify(table.buffer)


def image(table: Any) -> Image:
    """The table as the reader of fsck sees it."""
    table.save()
    return Image(bytes(table.buffer))


def is_final(table: Any, user: int) -> bool:
    """Whether the user is deleted for good, and not restored."""
    return bool(table.is_final(user))


def residents(table: Any) -> list[int]:
    """The slots of all users in the order of the LRU, the warmest first."""
    seen = image(table)
    users: list[int] = []
    user = seen.lru_head
    while user:
        users.append(user)
        user = seen.user[user].colder
    return users


def everything(table: Any, user: int) -> list[Row]:
    """All read states of a user that are not deleted, hidden ones too, as the bytes say it."""
    seen = image(table)
    rows: list[Row] = []
    for state in seen.state.values():
        if state.owner != user or state.status & layout.TOMBSTONE:
            continue
        extra, last_mention_id = b"", state.last_mention_id
        if state.status & layout.EXTENDED:
            slot = state.last_mention_id
            while slot:
                extension = seen.extension[slot]
                extra += struct.pack("<6q", *extension.numbers)[: 16 * extension.entries]
                slot = extension.next
            pairs = struct.iter_unpack("<qQ", extra)
            last_mention_id = max((v for v, info in pairs if not info >> 40 | info & 1), default=0)
        pins, viewed = divmod(state.pins_and_viewed, 1 << 16)
        fields = (last_mention_id, state.mention_count, pins, state.flags, viewed, state.version)
        rows.append((state.kind, state.channel_id, state.last_message_id, *fields, extra))
    return sorted(rows)


def get(table: Any, user: int, kind: int, channel_id: int) -> Any:
    """One read state, or None."""
    rows = table.get_some(user, kind, (channel_id,))
    return rows[0] if rows else None
