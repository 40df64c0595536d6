"""Defines the binary layout of a table file.

    byte_offset 0                 header, one page (HEADER_BYTES)
    HEADER_BYTES                  slots, SLOT_BYTES each; slot 0 is never used
    … + slots * SLOT_BYTES        hash index: uint32 slot numbers, 0 = empty

Numbers are little-endian with native alignment. Links are slot numbers; 0 means "none". The file
contains every number that describes a structure, so `fsck.py` can check it without a table.

Header (byte_offset, type, meaning):
    0   8s   magic
    8   u32  layout version
    12  u32  how the file was left: 0 in use, or its process died; 1 closed clean; 2 given up, which
             means that the file is never reused
    16  16s  topic ID, a UUID
    32  q    epoch
    40  q    partition
    48  48s  keyspace, UTF-8, zero-padded
    96  q    slots, including slot 0
    104 q    index entries
    112 q    position: the next offset to fold when the file is reused
    120 q    resident users          128 q  shown read states
    136 q    dirty read states       144 q  users in the dirty queue
    152 q    LRU head (warm end)     160 q  LRU tail (cold end)
    168 q    dirty head (oldest)     176 q  dirty tail (youngest)
    184 q    first free slot         192 q  free slots
    200 q    end of the slots ever used; later slots were never used and are on no list
    208 u32  CRC-32 of all bytes after the header, then of bytes 16-207; stored by a clean close
    216 36s  boot ID of the machine that wrote the file
    256 q    position with every bit inverted, stored after the position

State slot:                                   User slot:
    0   q    channel_id                           0   q    user_id
    8   q    last_message_id, 0: none             8   q    floor: a query with a smaller
                                                           since_version gets a full reply
    16  q    last_mention_id, 0: none; if         16  q    first_version, of the oldest change
             EXTENDED, the first extension                 that is not being written, 0: none
    24  q    version                              24  q    delete_version, of a deletion that is
                                                           not in Cassandra yet, 0: none
    32  Q    last_pin_timestamp (ms) << 16        32  u32  LRU next (colder)
             | last_viewed (days)                 36  u32  LRU previous (warmer)
    40  u32  mention_count                        40  u32  dirty next (younger)
    44  u32  flags                                44  u32  dirty previous (older)
    48  u32  owner: its user's slot               48  u32  first read state
    52  u32  next state of the same user          52  u16  shown read states, lower 16 of 20 bits
                                                  54  u16  side slots, lower 16 of 20 bits
    56  u32  previous state of the same user      56  u32  dirty since, ms modulo 2^32
    60  u8   read_state_type                      60  u8   upper 4 bits of both: shown | side << 4
    61  u8   status                               61  u8   status
    62  u16  checksum of bytes 0-51, 60-61        62  u16  checksum of bytes 0-31 and of
                                                           status & (USER | PARTIAL)
Extension slot, with up to three entries of a state (marks.py):
    0   q q  entry, up to three times             52  u32  next extension of the same state
    48  u32  owner: its state's slot              60  u8   number of entries
    61  u8   status: EXTENSION                    62  u16  checksum of bytes 0-55, 60-61
Free slot:
    52  u32  next free slot; all other bytes are zero

Names in capitals, such as EXTENDED, are status bits. A TOMBSTONE is a deleted state whose deletion
is not in Cassandra yet. A HIDDEN state is in no reply, because its fields are all zero. It is kept
for one of three reasons: it has entries, the event `set` cleared its last field, or it is the mark
of a final deletion (type 0, channel 0). All other states are *shown*. The *side slots* of a user
are its hidden states and all its extensions.

Hash, modulo 2^64:  mix(a, b): x = a * C1;  x ^= x >> 32 ^ b;  x *= C2;  x ^= x >> 29;  x * C3
    C1 9e3779b97f4a7c15   C2 c2b2ae3d27d4eb4f   C3 165667b19e3779f9   C4 d6e8feb86659fd93
    C5 a0761d6478bd642f   C6 e7037ed1a0b428db   C7 8ebc6af09c88c6e3
The hash of a user is mix(user_id, 0). The hash of a state is
    mix(channel_id, (owner << 8 | read_state_type) + 1)
The index is probed linearly from place (hash >> 32) * entries >> 32; place 0 follows the last one.
No entry between that place and the slot's own entry is empty.
Checksums: @n is the 64-bit number at byte_offset n. A user's sum and a state's sum are
    @0 * C1 + @8 * C2 + @16 * C3 + @24 * C4 + (status & (USER | PARTIAL)) * C7
    @0 * C1 + @8 * C2 + @16 * C3 + @24 * C4 + @32 * C5 + @40 * C6
        + (owner << 16 | byte @60 << 8 | status) * C7
An extension's sum is that of a state, plus next * C1. A slot's checksum is the upper 16 bits of
    (sum ^ sum >> 32) * C1

Invariants:
    I1  Each slot below "ever used" is a user, a state, an extension, or free and on the free list.
        A free slot is zero except for its `next`. The same holds for a slot that was never used.
    I2  The index leads to every user and every state, and contains nothing else.
    I3  Every state's owner is a user, and the state is on that user's list exactly once.
    I4  Every user is on the LRU list exactly once.
    I5  A user is QUEUED if and only if it is on the dirty queue. A QUEUED user has a first_version
        and is not IN_FLIGHT.
    I6  A user with a dirty state or a delete_version is QUEUED or IN_FLIGHT.
    I7  A tombstone is dirty.
    I8  The header's counts match the slots.
    I9  Every checksum is right.
    I10 A user's counts match its shown states and its side slots.
    I11 No user is PARTIAL. (A user is PARTIAL during its insertion and its eviction, while some of
        its read states are missing.)
    I12 No state is older than its user's delete_version.
    I13 The position matches its inverted copy.
    I14 Each extension is on the list of exactly one state. That state is its owner and is EXTENDED.
    I15 A state's entries satisfy M2-M4 (marks.py) and match its mention_count. A state other than a
        tombstone is HIDDEN if and only if its fields are zero. A user is FINAL if and only if it
        has the state (0, 0).

After a death (SIGKILL, out of memory), the pages contain all stores up to some instant. So an
interrupted operation may have made only its first few stores. These parts of the file are then not
trusted: links, the index, counts, the ends of lists, QUEUED, IN_FLIGHT, and the first_version of
writes under way. `rebuild.py` derives them from the other parts. Each of the other parts is either
right or recognisably damaged, for these reasons:
    - A slot is *sealed* when its checksum is stored. A half-changed slot has a wrong checksum, and
      a half-freed slot is not zero. In both cases, the worker drops the file. One in 65,536 damaged
      slots passes by chance.
    - A read state without a user is also damage.
    - A user is PARTIAL until its last read state is sealed (O1), and again before its first read
      state is freed (O2). Otherwise, missing read states would go unnoticed, because the user's
      checksum does not cover its counts. A PARTIAL user is clean, and the rebuild evicts it.
    - The deletion of a user sets delete_version before it frees the first read state (O3). So a
      rebuild can free the remaining older read states.
    - The deletion of a read state raises its user's floor before it makes the tombstone (O4). When
      the event is folded again, the tombstone's version shows that the event was applied.
    - A changed read state is DIRTY until Cassandra has its new value. One checksum covers both the
      value and DIRTY. The read state names its owner, so the rebuild can queue the user.
    - An extension never changes while a sealed state leads to it (O6, O7). So the state's checksum
      makes the whole change valid at once. The rebuild frees extensions that no state leads to.
    - A final deletion sets delete_version before it makes its mark (O3). If the mark is missing,
      the event is folded again and makes the mark. In the opposite order, the mark would cause the
      event to be skipped while old read states are still there.
    - If an event changes several read states, the table seals them one by one. The position is
      stored only after all of them, so the event is folded again. The version of each read state
      shows whether the event has changed that read state.

A compiler may reorder stores. Within a slot, that does no harm, because of the checksum. Between
two slots, the order matters for these pairs:
    O1  insert       the last read state is sealed       before  PARTIAL is taken from its user
    O2  evict        PARTIAL is sealed                   before  the first read state is freed
    O3  delete_user  delete_version is sealed            before  the first read state is freed,
                                                                 and before the mark is sealed
    O4  delete       the raised floor is sealed          before  the tombstone is sealed
    O5  any          everything a slice does             before  the position moves past it
    O6  any          new extensions are sealed           before  the state that leads to them is
    O7  any          a state is sealed                   before  its former extensions are freed
For O1-O4, O6 and O7, the table calls `store_barrier()` between the two stores. For O5, the
interpreter makes two separate calls, and no compiler moves a store across them. The order in the
processor does not matter: a dead process has made all stores of the instructions that it executed.
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

EXTENSION_ENTRIES = 3  # most entries in one extension
SIDE_SHARE = 16  # see `side_slots_max`
SIDE_SLOTS_MAX = 1_000_000  # a user's counts have 20 bits

# status bits
USER, STATE = 1, 2  # kind of slot
FINAL, QUEUED, IN_FLIGHT, PARTIAL = 8, 16, 32, 64  # of a user
DIRTY, TOMBSTONE, EXTENDED, HIDDEN = 4, 8, 16, 32  # of a state
EXTENSION = 128  # kind of slot; an extension has no other bit


class Field(NamedTuple):
    """A field of a slot: its place, and its type code for `memoryview.cast`."""

    byte_offset: int
    type: str


FIELDS = {
    # of all kinds of slots
    "type": Field(60, "B"),  # read_state_type; in an extension, the number of entries
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
    "last_viewed": Field(32, "H"),  # the lower 16 bits of pins_and_viewed
    "mention_count": Field(40, "I"),
    "flags": Field(44, "I"),
    "owner": Field(48, "I"),
    "next": Field(52, "I"),  # also of an extension and a free slot
    "previous": Field(56, "I"),
}


class TableDamaged(Exception):
    """The file breaks an invariant. Drop the file and fold the log again."""


def views(buffer: object) -> dict[str, memoryview]:
    """Return views of a table file, by name.

    Each field in FIELDS has a view with one item per slot. `words` and `links` are all slots as
    64-bit and as 32-bit numbers. `index` is the hash index, `header` is the header as 64-bit
    numbers, and `whole` is the whole file as bytes. Access beyond the end raises IndexError. The
    caller must release all views. Raises TableDamaged if the header contradicts the buffer's size.
    """
    whole = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # any writable buffer
    header = whole[:HEADER_BYTES].cast("q")
    slots, entries = header[AT_SLOTS // 8], header[AT_INDEX // 8]
    if slots < 2 or entries < slots or table_size_bytes(slots) != len(whole):
        header.release()
        whole.release()
        raise TableDamaged("the header contradicts the size of the file")
    index_at = HEADER_BYTES + slots * SLOT_BYTES
    index = whole[index_at:].cast("I")
    return _named(whole[HEADER_BYTES:index_at], index=index, header=header, whole=whole)


def no_views() -> dict[str, memoryview]:
    """Return the same views for a closed table, without a file."""
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
    """Return the number of slots for `states` read states and their users, plus slot 0."""
    return 1 + states + max(64, states // 8)


def side_slots_max(user_states_max: int, slots: int) -> int:
    """Return how many side slots a user may take in a table of `slots` slots.

    The limit is `user_states_max` or one SIDE_SHARE-th of the table, whichever is larger. So if
    `user_states_max` is small, all read states of a user have room for all their marks.
    """
    return max(user_states_max, min(slots // SIDE_SHARE, SIDE_SLOTS_MAX))


def index_entries(slots: int) -> int:
    """Return the size of the hash index: 1.5 entries per slot, rounded up to an even number."""
    return (3 * slots + 3) // 4 * 2


def table_size_bytes(slots: int) -> int:
    """Return the size of the whole file."""
    return HEADER_BYTES + slots * SLOT_BYTES + index_entries(slots) * 4
