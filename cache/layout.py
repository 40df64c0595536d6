"""The binary layout of a table file: the only authority on it.

    byte_offset 0                 header, one page (HEADER_BYTES)
    HEADER_BYTES                  slots, SLOT_BYTES each; slot 0 is never used, 0 means "none"
    … + slots * SLOT_BYTES        hash index, uint32 slot numbers, 0 = empty

Little-endian, native alignment. Links are slot numbers. Every number that describes a structure
is in the file, so that the file can be checked without the table's code (`fsck.py`).

Header (byte_offset, type, meaning):
    0   8s   magic
    8   u32  layout version
    12  u32  how the file was left: 0 in use or died, 1 closed clean, 2 given up: never used again
    16  16s  topic UUID
    32  q    epoch
    40  q    partition
    48  48s  keyspace, UTF-8, zero-padded
    96  q    slots, slot 0 included
    104 q    index entries
    112 q    position: the next offset to take when the file is used again
    120 q    resident users          128 q  resident read states, tombstones not counted
    136 q    dirty read states       144 q  users in the dirty queue
    152 q    LRU head (warm end)     160 q  LRU tail (cold end)
    168 q    dirty head (oldest)     176 q  dirty tail
    184 q    first free slot         192 q  free slots
    200 q    slots ever used: those above were never touched and are on no list
    208 u32  CRC-32 of everything after the header, then bytes 16-207; written by a clean close
    216 36s  boot ID of the machine that wrote it
    256 q    position with every bit inverted, stored after the position

State slot:                                   User slot:
    0   q    channel_id                           0   q    user_id
    8   q    last_message_id, 0: none             8   q    floor: no safe since_version below it
    16  q    last_mention_id, 0: none;            16  q    first_version not handed over, 0: none
             EXTENDED: the first extension
    24  q    version                              24  q    delete_version, 0: none to be written
    32  Q    last_pin_timestamp (ms) << 16        32  u32  LRU next (colder)
             | last_viewed (days)                 36  u32  LRU previous (warmer)
    40  u32  mention_count                        40  u32  dirty next (younger)
    44  u32  flags                                44  u32  dirty previous (older)
    48  u32  owner: its user's slot               48  u32  first read state
    52  u32  next of the same user                52  u16  shown read states, lower 16 of 20 bits
                                                  54  u16  side slots, lower 16 of 20 bits
    56  u32  previous of the same user            56  u32  dirty since, ms modulo 2^32
    60  u8   read_state_type                      60  u8   the upper 4 bits: shown, side << 4
    61  u8   status                               61  u8   status
    62  u16  checksum of bytes 0-51, 60-61        62  u16  checksum of bytes 0-31 and of
                                                       status & (USER | PARTIAL)
Extension slot, with more of a state's entries (marks.py) than its slot can say:
    0   q q  entry, up to three times             52  u32  next extension of the same state, 0: none
    48  u32  owner: its state's slot              60  u8   how many entries
    61  u8   status: EXTENSION                    62  u16  checksum of bytes 0-55, 60-61

A state that no reply has, since all its fields are zero, is HIDDEN: it has entries, or `set` took
its last field, or it stands for a final deletion: type 0, channel 0. A user's side slots are its
hidden states and all its extensions.

A free slot is all zero but for its `next` (byte 52), the next free one.

Hash, modulo 2^64:  mix(a, b): x = a * C1;  x ^= x >> 32 ^ b;  x *= C2;  x ^= x >> 29;  x * C3
    C1 9e3779b97f4a7c15   C2 c2b2ae3d27d4eb4f   C3 165667b19e3779f9   C4 d6e8feb86659fd93
    C5 a0761d6478bd642f   C6 e7037ed1a0b428db   C7 8ebc6af09c88c6e3
A user's hash is mix(user_id, 0), a state's mix(channel_id, (owner << 8 | read_state_type) + 1). Its
entry is at place (hash >> 32) * entries >> 32, or at a later one (0 follows the last) with no empty
entry in between.
Checksums: with @n for the 64-bit number at byte_offset n, a user's sum and a state's sum are
    @0 * C1 + @8 * C2 + @16 * C3 + @24 * C4 + (status & (USER | PARTIAL)) * C7
    @0 * C1 + @8 * C2 + @16 * C3 + @24 * C4 + @32 * C5 + @40 * C6
        + (owner << 16 | byte @60 << 8 | status) * C7
an extension's is as a state's, and next * C1 more;
the checksum is the upper 16 bits of (sum ^ sum >> 32) * C1.

Invariants:
    I1  every slot below "ever used" is free and on the free list, a user, a state, or an extension:
        exactly one. A free slot, and one never used, is zero but for its `next`.
    I2  every user and every state is found through the index, and the index holds nothing else.
    I3  every state's owner is a user, and the state is on that user's list exactly once.
    I4  every user is on the LRU list exactly once.
    I5  a user is QUEUED if and only if it is on the dirty queue; then it has a first_version and is
        not IN_FLIGHT.
    I6  a dirty state's user is QUEUED or IN_FLIGHT; so is a user with a delete_version.
    I7  a tombstone is dirty.
    I8  the header's counts are those of the slots.
    I9  every checksum is right.
    I10 a user's counts are those of its states that are neither tombstones nor hidden, and of its
        side slots.
    I11 no user is PARTIAL, that is, being brought in or evicted, with some read states missing.
    I12 no state is older than its user's delete_version.
    I13 the position and its inverse agree.
    I14 an extension is on the list of exactly one state, its owner, and that is EXTENDED.
    I15 a state's entries are as M2-M4 (marks.py) say, they give its mention_count, and it is HIDDEN
        exactly if its fields are zero. A user is FINAL exactly if it has the state (0, 0).

After a death (SIGKILL, out of memory) the pages hold the stores that were made, up to some
instant, so any prefix of an operation's stores may be found. Links, the index, counts, list ends,
QUEUED, IN_FLIGHT and the first_version of writes that were under way are then not trusted: they
follow from the rest (`rebuild.py`). The rest is right or known to be wrong, because
    - a slot is sealed by its checksum: a half-changed slot has a wrong one, and a half-freed slot
      is not zero (one in 65,536 of such moments, each a few ns long, passes). The file is dropped;
    - a read state without its user is damage, too;
    - a user is PARTIAL until its last read state is sealed (O1), and again before its first one is
      freed (O2): its counts are not under its checksum and would not tell what is missing. A
      PARTIAL user is clean, and is evicted;
    - a deletion of a user is noted in delete_version before the first read state is freed (O3): a
      rebuild frees the older read states that are still there;
    - a deletion of a read state raises its user's floor first (O4): if the event is folded again,
      the tombstone's version shows that it was applied, and the floor is not raised again;
    - a read state is dirty with its new value, under the same checksum, until Cassandra has it, and
      it names its owner. The user's place in the queue follows from it;
    - an extension is never changed while a sealed state leads to it (O6, O7): a state's seal
      makes all of a change at once; extensions that no state leads to are freed;
    - a final deletion notes delete_version before it makes its mark (O3): if the event is folded
      again and there is no mark, it is made then. The other way round the mark would let the event
      be skipped, with the read states still there;
    - several entries of one event are sealed one by one. The event is folded again, because the
      position is stored after all of it; each entry's version shows whether it was applied.

A compiler may make stores in a different order from the program text. That is harmless within a
slot, because of the checksum, and between two slots except for these pairs:
    O1  insert       the last read state is sealed       before  PARTIAL is taken from its user
    O2  evict        PARTIAL is sealed                   before  the first read state is freed
    O3  delete_user  delete_version is sealed            before  the first read state is freed,
                                                                 and before the mark is sealed
    O4  delete       the raised floor is sealed          before  the tombstone is sealed
    O5  any          everything a slice does             before  the position moves past it
    O6  any          new extensions are sealed           before  the state that leads to them is
    O7  any          a state is sealed                   before  its former extensions are freed
In O1-O4, O6 and O7 `table.py` has a `store_barrier()` between the two. In O5 they are separate
calls from the interpreter, across which no compiler moves a store. The order of the processor does
not matter: a process that dies has made all stores of the instructions it executed.
"""

from __future__ import annotations

from typing import NamedTuple

MAGIC = b"RDSTATES"
LAYOUT_VERSION = 3
HEADER_BYTES = 4096
SLOT_BYTES = 64
KEYSPACE_BYTES = 48
BOOT_ID_BYTES = 36

# byte_offsets in the header
AT_MAGIC, AT_LAYOUT, AT_LEFT, AT_TOPIC_ID = 0, 8, 12, 16
AT_EPOCH, AT_PARTITION, AT_KEYSPACE = 32, 40, 48
AT_SLOTS, AT_INDEX, AT_POSITION = 96, 104, 112
AT_USERS, AT_STATES, AT_DIRTY_STATES, AT_DIRTY_USERS = 120, 128, 136, 144
AT_LRU_HEAD, AT_LRU_TAIL, AT_DIRTY_HEAD, AT_DIRTY_TAIL = 152, 160, 168, 176
AT_FREE_HEAD, AT_FREE, AT_USED = 184, 192, 200
AT_CRC, AT_BOOT_ID, AT_POSITION_INVERTED = 208, 216, 256

# how a file was left
IN_USE, CLOSED_CLEAN, GIVEN_UP = 0, 1, 2

EXTENSION_ENTRIES = 3  # in one extension
SIDE_SHARE = 16  # see `side_slots_max`
SIDE_SLOTS_MAX = 1_000_000  # a user's counts have 20 bits

# status bits
USER, STATE = 1, 2  # which of the two a slot is
FINAL, QUEUED, IN_FLIGHT, PARTIAL = 8, 16, 32, 64  # of a user
DIRTY, TOMBSTONE, EXTENDED, HIDDEN = 4, 8, 16, 32  # of a state
EXTENSION = 128  # an extension has no other bit


class Field(NamedTuple):
    """A field of a slot: where it is, and its type as `memoryview.cast` names it."""

    byte_offset: int
    type: str


FIELDS = {
    # of both kinds of slots
    "type": Field(60, "B"),  # read_state_type; of an extension how many entries
    "status": Field(61, "B"),
    "checksum": Field(62, "H"),
    # of a user
    "user_id": Field(0, "q"),
    "floor": Field(8, "q"),
    "first_version": Field(16, "q"),
    "delete_version": Field(24, "q"),
    "colder": Field(32, "I"),  # LRU
    "warmer": Field(36, "I"),
    "younger": Field(40, "I"),  # dirty queue
    "older": Field(44, "I"),
    "first_state": Field(48, "I"),
    "live_states": Field(52, "H"),
    "side_slots": Field(54, "H"),
    "count_tops": Field(60, "B"),
    "dirty_since": Field(56, "I"),
    # of a state
    "channel_id": Field(0, "q"),
    "last_message_id": Field(8, "q"),
    "last_mention_id": Field(16, "q"),
    "version": Field(24, "q"),
    "pins_and_viewed": Field(32, "Q"),
    "last_viewed": Field(32, "H"),  # the lower 16 bits of that
    "mention_count": Field(40, "I"),
    "flags": Field(44, "I"),
    "owner": Field(48, "I"),
    "next": Field(52, "I"),  # of a free slot, too
    "previous": Field(56, "I"),
}


class TableDamaged(Exception):
    """The file contradicts itself; drop it and replay."""


def views(buffer: object) -> dict[str, memoryview]:
    """Views of a table file by name; those of FIELDS are indexed by slot number.

    Further views: `words` and `links`, all slots as 64-bit and as 32-bit numbers; `index`;
    `header`, as 64-bit numbers; `whole`, the bytes. A missing slot or index entry raises
    IndexError. The caller releases all views. Raises TableDamaged if the header's sizes are not
    the buffer's.
    """
    whole = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # any writable buffer
    header = whole[:HEADER_BYTES].cast("q")
    slots, entries = header[AT_SLOTS // 8], header[AT_INDEX // 8]
    if slots < 2 or entries < slots or table_size_bytes(slots) != len(whole):
        header.release()
        whole.release()
        raise TableDamaged("the header's sizes are not the file's")
    index_at = HEADER_BYTES + slots * SLOT_BYTES
    index = whole[index_at:].cast("I")
    return _named(whole[HEADER_BYTES:index_at], index=index, header=header, whole=whole)


def no_views() -> dict[str, memoryview]:
    """The same views of no file, for a table that is closed."""
    nothing = memoryview(bytearray(SLOT_BYTES))
    return _named(nothing, nothing.cast("I"), nothing.cast("q"), memoryview(b""))


def _named(
    slots: memoryview, index: memoryview, header: memoryview, whole: memoryview
) -> dict[str, memoryview]:
    typed = {letter: slots.cast(letter) for letter in "qQIHB"}  # type: ignore[call-overload]
    named = {}
    for name, field in FIELDS.items():
        view = typed[field.type]
        named[name] = view[field.byte_offset // view.itemsize :: SLOT_BYTES // view.itemsize]
    named |= {"words": typed["q"], "links": typed["I"]}
    return named | {"index": index, "header": header, "whole": whole}


def slots_for(states: int) -> int:
    """Slots for `states` read states and their users, slot 0 included."""
    return 1 + states + max(64, states // 8)


def side_slots_max(user_states_max: int, slots: int) -> int:
    """Slots that a user's extensions and hidden read states may take in a table of `slots`.

    As many as the user may have read states, or SIDE_SHARE of the table if that is more: so with
    a small limit of read states, all of them have room for all their marks.
    """
    return max(user_states_max, min(slots // SIDE_SHARE, SIDE_SLOTS_MAX))


def index_entries(slots: int) -> int:
    """Entries of the hash index: 1.5 per slot, made even so that the file ends on 8 bytes."""
    return (3 * slots + 3) // 4 * 2


def table_size_bytes(slots: int) -> int:
    """Size of the whole file."""
    return HEADER_BYTES + slots * SLOT_BYTES + index_entries(slots) * 4
