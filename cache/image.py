"""Decodes a table file for checking, independently of the table.

It uses nothing of the compiled modules, not even their hash, and only the constants of layout.py. A
mistake in either reader therefore shows as a difference between the two.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from . import layout

HEADER = struct.Struct("<8sII16sqq48s14qI4x36s4xq")
USER_SLOT = struct.Struct("<4q5IHHIBBH")
STATE_SLOT = struct.Struct("<4qQ5IBBH")
EXTENSION_SLOT = struct.Struct("<6q3IBBH")
MASK = 2**64 - 1
STATE_BITS = layout.DIRTY | layout.TOMBSTONE | layout.EXTENDED | layout.HIDDEN
IMPOSSIBLE = {  # a tombstone has no fields and no entries
    layout.STATE | layout.TOMBSTONE | other | dirty
    for other in (layout.EXTENDED, layout.HIDDEN, layout.EXTENDED | layout.HIDDEN)
    for dirty in (0, layout.DIRTY)
}
C = (
    0x9E3779B97F4A7C15,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
    0xE7037ED1A0B428DB,
    0x8EBC6AF09C88C6E3,
)


class NotATableFileError(Exception):
    """The file is not a table file, or has another layout."""


@dataclass(frozen=True)
class User:
    """A user slot as it is in the file."""

    user_id: int
    floor: int
    first_version: int
    delete_version: int
    colder: int
    warmer: int
    younger: int
    older: int
    head: int
    live_low: int
    side_low: int
    dirty_since_ms: int
    count_tops: int
    status: int
    checksum: int

    @property
    def live(self) -> int:
        """How many read states it counts as shown."""
        return self.live_low | (self.count_tops & 15) << 16

    @property
    def side(self) -> int:
        """How many slots it counts for hidden read states and extensions."""
        return self.side_low | (self.count_tops >> 4) << 16


@dataclass(frozen=True)
class Extension:
    """An extension slot as it is in the file; `numbers`: value and info of three entries."""

    numbers: tuple[int, ...]
    owner: int
    next: int
    entries: int
    status: int
    checksum: int


@dataclass(frozen=True)
class State:
    """A state slot as it is in the file; in a free slot only `next` and `status` have meaning."""

    channel_id: int
    last_message_id: int
    last_mention_id: int
    version: int
    pins_and_viewed: int
    mention_count: int
    flags: int
    owner: int
    next: int
    previous: int
    kind: int
    status: int
    checksum: int


class Image:
    """A whole file in memory, decoded."""

    def __init__(self, data: bytes) -> None:
        if len(data) < layout.HEADER_BYTES or data[:8] != layout.MAGIC:
            raise NotATableFileError("it does not begin like a table file")
        (_, version, self.left, _, self.epoch, self.partition, keyspace, self.slots,
         self.entries, self.position, self.users, self.states, self.dirty_states,
         self.dirty_users, self.lru_head, self.lru_tail, self.dirty_head, self.dirty_tail,
         self.free_head, self.free, self.used, self.crc, _, self.position_inverted
        ) = HEADER.unpack_from(data)  # fmt: skip
        self.keyspace = keyspace.rstrip(b"\0").decode(errors="replace")
        if version != layout.LAYOUT_VERSION:
            raise NotATableFileError(f"layout version {version}, not {layout.LAYOUT_VERSION}")
        size = layout.HEADER_BYTES + self.slots * layout.SLOT_BYTES + self.entries * 4
        if self.slots < 2 or self.entries < self.slots or size != len(data):
            raise NotATableFileError(
                f"{len(data)} bytes, but the header says {self.slots} slots and "
                f"{self.entries} index entries"
            )
        self.data = data
        self.index = struct.unpack_from(f"<{self.entries}I", data, size - self.entries * 4)
        self.user: dict[int, User] = {}
        self.state: dict[int, State] = {}
        self.extension: dict[int, Extension] = {}
        self.vacant: dict[int, int] = {}  # free slot: the next free one
        self.remains: list[int] = []  # free slots that are not zero but for their link
        self.odd: dict[int, int] = {}  # slot: its status, which is not a possible one
        for slot in range(1, self.slots):
            self._decode(slot)

    @property
    def clean(self) -> bool:
        """True if the file was closed clean: it is not in use, left by a death, or given up."""
        return bool(self.left == layout.CLOSED_CLEAN)

    def _decode(self, slot: int) -> None:
        byte_offset = layout.HEADER_BYTES + slot * layout.SLOT_BYTES
        status = self.data[byte_offset + 61]
        if status & (layout.USER | layout.STATE) == layout.USER and not status & (
            128 | layout.DIRTY
        ):
            self.user[slot] = User(*USER_SLOT.unpack_from(self.data, byte_offset))
        elif status & ~STATE_BITS == layout.STATE and status not in IMPOSSIBLE:
            self.state[slot] = State(*STATE_SLOT.unpack_from(self.data, byte_offset))
        elif status == layout.EXTENSION:
            *numbers, owner, following, _, entries, _, found = EXTENSION_SLOT.unpack_from(
                self.data, byte_offset
            )
            self.extension[slot] = Extension(
                tuple(numbers), owner, following, entries, status, found
            )
        elif status == 0:
            self.vacant[slot] = State(*STATE_SLOT.unpack_from(self.data, byte_offset)).next
            if any(self.data[byte_offset : byte_offset + 52]) or any(
                self.data[byte_offset + 56 : byte_offset + 64]
            ):
                self.remains.append(slot)
        else:
            self.odd[slot] = status


def mix(a: int, b: int) -> int:
    """The hash of layout.py."""
    x = a * C[0] & MASK
    x ^= x >> 32 ^ b
    x = x * C[1] & MASK
    x ^= x >> 29
    return x * C[2] & MASK


def key_hash(image: Image, slot: int) -> int:
    """The key that decides the place of a slot in the index."""
    user = image.user.get(slot)
    if user is not None:
        return mix(user.user_id & MASK, 0)
    state = image.state[slot]
    return mix(state.channel_id & MASK, (state.owner << 8 | state.kind) + 1)


def checksum(slot: User | State | Extension) -> int:
    """The checksum that a slot should have."""
    numbers: tuple[int, ...]
    if isinstance(slot, User):
        tail = slot.status & (layout.USER | layout.PARTIAL)
        numbers = (slot.user_id, slot.floor, slot.first_version, slot.delete_version, 0, 0, tail)
    elif isinstance(slot, Extension):
        tail = slot.owner << 16 | slot.entries << 8 | slot.status
        first, *others = slot.numbers
        numbers = (first + slot.next, *others, tail)
    else:
        tail = slot.owner << 16 | slot.kind << 8 | slot.status
        ids = (slot.channel_id, slot.last_message_id, slot.last_mention_id, slot.version)
        numbers = (*ids, slot.pins_and_viewed, slot.flags << 32 | slot.mention_count, tail)
    x = sum(number * factor for number, factor in zip(numbers, C, strict=True)) & MASK
    return ((x ^ x >> 32) * C[0] & MASK) >> 48
