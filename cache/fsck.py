"""Checks a table file against the invariants of layout.py, with an independent reader (image.py).

It only reads. The header of a file that was not closed clean has no current counts and list ends
(they are in the process), so for such a file I4, I5, I8 and the free list are not checked. One of
its slots may be half changed, because a process is using the file or died while using it. The next
`open_table` decides whether the file of a process that died can be repaired.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import layout
from .image import Extension, Image, NotATableFileError, State, User, checksum, key_hash
from .marks import DELETED, FOR_GOOD, MARK, MARKS_MAX, TAG_SHIFT, UNCOUNTED, UNREAD

PROBLEMS_MAX = 100  # a damaged file may break invariants thousands of times; the first are enough


def problems(image: Image, saved: bool) -> Iterator[str]:
    """Yield broken invariants. `saved`: the header's counts and list ends are current."""
    if image.clean:
        body = zlib.crc32(image.data[layout.HEADER_BYTES :])
        if zlib.crc32(image.data[layout.AT_TOPIC_ID : layout.AT_CRC], body) != image.crc:
            yield "closed clean, but the checksum of the whole file is wrong"
    if image.position_inverted != ~image.position:
        yield f"I13: position {image.position}, but its inverse is {image.position_inverted}"
    for slot in image.remains:
        yield f"I1: slot {slot} is free and not zero"
    for slot, status in image.odd.items():
        yield f"I1: slot {slot} has status {status}, which is neither free, user nor state"
    if saved:
        yield from _free_list(image)
        yield from _counts(image)
        yield from _lru(image)
        yield from _dirty_queue(image)
    yield from _index(image)
    yield from _checksums(image)
    yield from _members(image)
    yield from _extensions(image)
    for slot, state in image.state.items():
        yield from _marks(image, slot, state)


def _free_list(image: Image) -> Iterator[str]:
    listed: set[int] = set()
    slot = image.free_head
    while slot:
        if slot in listed:
            yield f"I1: the free list returns to slot {slot}"
            break
        if slot not in image.vacant or slot >= image.used:
            yield f"I1: slot {slot} is on the free list and not a free slot that was used"
            break
        listed.add(slot)
        slot = image.vacant[slot]
    for slot in image.vacant:
        if slot < image.used and slot not in listed:
            yield f"I1: slot {slot} is free and not on the free list"
    for slot in (*image.user, *image.state, *image.extension):
        if slot >= image.used:
            yield f"I1: slot {slot} is in use and not below 'ever used' ({image.used})"


def _index(image: Image) -> Iterator[str]:
    places: dict[int, int] = {}
    for place, slot in enumerate(image.index):
        if slot == 0:
            continue
        if slot in places:
            yield f"I2: slot {slot} is in the index twice"
        elif slot not in image.user and slot not in image.state:
            yield f"I2: the index holds slot {slot}, which is no user and no state"
        else:
            places[slot] = place
    if 0 not in image.index:
        yield "I2: the index has no empty entry"
        return
    reach = _reach(image)
    keys: set[tuple[int, ...]] = set()
    for slot in (*image.user, *image.state):
        home = (key_hash(image, slot) >> 32) * image.entries >> 32
        if slot not in places or (places[slot] - home) % image.entries > reach[places[slot]]:
            yield f"I2: slot {slot} is not found through the index"
        state = image.state.get(slot)
        key = (
            (state.owner, state.kind, state.channel_id)
            if state is not None
            else (image.user[slot].user_id,)
        )
        if key in keys:
            yield f"I2: slot {slot} has the key of another slot"
        keys.add(key)


def _reach(image: Image) -> list[int]:
    """For each place, the number of filled entries right before it. Needs an empty entry."""
    filled = [0] * image.entries
    for step in range(2 * image.entries):  # go round twice, because a run may wrap
        place = step % image.entries
        filled[place] = filled[place - 1] + 1 if image.index[place - 1] else 0
    return filled


def _checksums(image: Image) -> Iterator[str]:
    slots: dict[int, User | State | Extension] = {**image.user, **image.state, **image.extension}
    for number, slot in slots.items():
        if slot.checksum != checksum(slot):
            yield f"I9: the checksum of slot {number} is wrong"


def _members(image: Image) -> Iterator[str]:
    """Check I3, I6, I7, I10, I11 and I12 of users and their states."""
    owner_of: dict[int, int] = {}
    for number, user in image.user.items():
        slot, before, shown, side, final = user.head, 0, 0, 0, False
        while slot:
            state = image.state.get(slot)
            if state is None or slot in owner_of or state.owner != number:
                yield f"I3: slot {slot} does not belong on the list of user slot {number}"
                break
            if state.previous != before:
                yield f"I3: slot {slot} does not link back to slot {before}"
            owner_of[slot] = number
            shown += not state.status & (layout.TOMBSTONE | layout.HIDDEN)
            side += bool(state.status & layout.HIDDEN) + len(list(_chain(image, slot)))
            final |= bool(state.status & layout.HIDDEN) and state.channel_id == 0
            slot, before = state.next, slot
        if (shown, side) != (user.live, user.side):
            yield (
                f"I10: user slot {number} counts {user.live} read states and {user.side} other "
                f"slots, and has {shown} and {side}"
            )
        if final != bool(user.status & layout.FINAL):
            yield f"I15: user slot {number} is FINAL without its mark, or has it and is not"
        if user.status & layout.PARTIAL:
            yield f"I11: user slot {number} is PARTIAL"
        if user.delete_version and not user.status & (layout.QUEUED | layout.IN_FLIGHT):
            yield f"I6: user slot {number} has a deletion to write and is not queued"
    for number, state in image.state.items():
        if number not in owner_of:
            yield f"I3: slot {number} is on no user's list"
            continue
        if state.status & layout.TOMBSTONE and not state.status & layout.DIRTY:
            yield f"I7: slot {number} is a tombstone and not dirty"
        if state.version < image.user[owner_of[number]].delete_version:
            yield f"I12: slot {number} is older than the deletion of its user"
        waits = image.user[owner_of[number]].status & (layout.QUEUED | layout.IN_FLIGHT)
        if state.status & layout.DIRTY and not waits:
            yield f"I6: slot {number} is dirty and its user is not queued"


def _chain(image: Image, slot: int) -> Iterator[int]:
    """The slots that a read state links to, as long as they are extensions."""
    state = image.state[slot]
    following = state.last_mention_id if state.status & layout.EXTENDED else 0
    seen: set[int] = set()
    while following in image.extension and following not in seen:
        yield following
        seen.add(following)
        following = image.extension[following].next


def _extensions(image: Image) -> Iterator[str]:
    """I14: each extension belongs to one state."""
    left = set(image.extension)
    for slot, state in image.state.items():
        chain = list(_chain(image, slot))
        if state.status & layout.EXTENDED and not chain:
            yield f"I14: slot {slot} is EXTENDED and leads to no extension"
        for extension in chain:
            if extension not in left or image.extension[extension].owner != slot:
                yield f"I14: extension {extension} does not belong to slot {slot}"
            left.discard(extension)
        if chain and (following := image.extension[chain[-1]].next):
            yield f"I14: the extensions of slot {slot} lead to slot {following}, which is none"
    for extension in left:
        yield f"I14: extension {extension} belongs to no read state"


def _marks(image: Image, slot: int, state: State) -> Iterator[str]:
    """Check I15: a state's entries say the same as its fields."""
    entries: list[tuple[int, int, int]] = []  # tag, value, payload
    for number in _chain(image, slot):
        extension = image.extension[number]
        if not 1 <= extension.entries <= layout.EXTENSION_ENTRIES:
            yield f"I1: extension {number} has {extension.entries} entries"
        pairs = zip(extension.numbers[::2], extension.numbers[1::2], strict=True)
        for value, info in list(pairs)[: extension.entries]:
            entries.append((info >> TAG_SHIFT, value, info & (1 << TAG_SHIFT) - 1))
    if not state.status & layout.EXTENDED and state.mention_count:
        entries.append((MARK, state.last_mention_id, 0))
    marks = [entry for entry in entries if entry[0] == MARK]
    special = {tag: (value, payload) for tag, value, payload in entries if tag != MARK}
    above = max(
        state.last_message_id,
        special.get(UNCOUNTED, (0, 0))[0],
        special.get(DELETED, (0, 0))[0],
    )
    count = sum(not rank & 1 for _, _, rank in marks) + special.get(UNCOUNTED, (0, 0))[1]
    if entries != sorted(entries) or len(entries) != len(marks) + len(special):
        yield f"I15: the entries of slot {slot} are not in order, each once"
    if len(marks) > MARKS_MAX or special.keys() - {UNCOUNTED, UNREAD, DELETED}:
        yield f"I15: slot {slot} has entries that are too many or unknown"
    most = {MARK: FOR_GOOD, UNCOUNTED: 2**32 - 1}
    if any(payload > most.get(tag, 0) for tag, _, payload in entries):
        yield f"I15: slot {slot} has an entry with an impossible payload"
    if state.status & layout.EXTENDED and [(t, p) for t, _, p in entries] == [(MARK, 0)]:
        yield f"I15: slot {slot} has an extension for a plain mention"
    if any(value <= above for _, value, _ in marks):
        yield f"I15: slot {slot} has a mark that is not above {above}"
    if min(count, 2**32 - 1) != state.mention_count:
        yield f"I15: slot {slot} counts {state.mention_count} mentions, its entries say {count}"
    if not state.status & layout.EXTENDED and not state.mention_count and state.last_mention_id:
        yield f"I15: slot {slot} has a last mention and no mentions"
    fields = state.last_message_id, state.mention_count, state.pins_and_viewed, state.flags
    if DELETED in special and any(fields):
        yield f"I15: slot {slot} is deleted up to a message, and not all zero"
    hidden = bool(state.status & layout.HIDDEN)
    if not state.status & layout.TOMBSTONE and any(fields) == hidden:
        yield f"I15: slot {slot} is hidden, or its fields are zero, but not both"


def _lru(image: Image) -> Iterator[str]:
    links = {slot: (user.colder, user.warmer) for slot, user in image.user.items()}
    yield from _list("I4", "the LRU", links, image.lru_head, image.lru_tail)


def _dirty_queue(image: Image) -> Iterator[str]:
    links = {
        slot: (user.younger, user.older)
        for slot, user in image.user.items()
        if user.status & layout.QUEUED
    }
    for slot in links:
        if not image.user[slot].first_version:
            yield f"I5: user slot {slot} is queued and has no first_version"
        if image.user[slot].status & layout.IN_FLIGHT:
            yield f"I5: user slot {slot} is queued and in flight"
    yield from _list("I5", "the dirty queue", links, image.dirty_head, image.dirty_tail)


def _list(
    name: str, what: str, links: dict[int, tuple[int, int]], head: int, tail: int
) -> Iterator[str]:
    seen: set[int] = set()
    slot, before = head, 0
    while slot:
        if slot in seen or slot not in links:
            yield f"{name}: slot {slot} does not belong where it is on {what}"
            return
        seen.add(slot)
        following, back = links[slot]
        if back != before:
            yield f"{name}: slot {slot} does not link back to slot {before} on {what}"
        slot, before = following, slot
    if before != tail:
        yield f"{name}: {what} ends at slot {before}, the header says {tail}"
    for slot in links.keys() - seen:
        yield f"{name}: slot {slot} is not on {what}"


def _counts(image: Image) -> Iterator[str]:
    hidden = layout.TOMBSTONE | layout.HIDDEN
    alive = [s for s in image.state.values() if not s.status & hidden]
    used = len(image.user) + len(image.state) + len(image.extension)
    for what, header, found in (
        ("users", image.users, len(image.user)),
        ("read states", image.states, len(alive)),
        ("dirty read states", image.dirty_states,
         sum(bool(s.status & layout.DIRTY) for s in image.state.values())),
        ("queued users", image.dirty_users,
         sum(bool(u.status & layout.QUEUED) for u in image.user.values())),
        ("free slots", image.free, image.slots - 1 - used),
    ):  # fmt: skip
        if header != found:
            yield f"I8: the header counts {header} {what}, there are {found}"


def check_bytes(data: bytes, *, saved: bool | None = None) -> list[str]:
    """The problems in a file's bytes, at most PROBLEMS_MAX. Raises NotATableFileError.

    `saved`: whether the header is current; by default, it is if the file was closed clean.
    """
    image = Image(data)
    found: list[str] = []
    for problem in problems(image, image.clean if saved is None else saved):
        found.append(problem)
        if len(found) == PROBLEMS_MAX:
            break
    return found


def check(path: Path) -> list[str]:
    """The problems in a table file; none if it is sound. Raises OSError, NotATableFileError.

    Reads the whole file into memory and takes a few seconds for a million slots.
    """
    return check_bytes(path.read_bytes())


def main(argv: Sequence[str] | None = None) -> int:
    """`readstates fsck FILE`: 0 sound, 1 damaged, 2 not a table file or not readable."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: readstates fsck FILE", file=sys.stderr)
        return 2
    try:
        data = Path(arguments[0]).read_bytes()
        image = Image(data)
        found = check_bytes(data)
    except (OSError, NotATableFileError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        print(f"{arguments[0]}: {said}", file=sys.stderr)
        return 2
    for problem in found:
        print(problem)
    dirty = sum(bool(s.status & layout.DIRTY) for s in image.state.values())
    print(
        f"{'damaged' if found else 'sound'}: partition {image.partition}, epoch {image.epoch}, "
        f"keyspace {image.keyspace}, position {image.position}, {image.slots - 1} slots, "
        f"{len(image.user)} users, {len(image.state)} read states, {dirty} dirty"
    )
    if not image.clean:
        print("not closed clean (in use, or its process died): counts and lists were not checked")
    return 1 if found else 0
