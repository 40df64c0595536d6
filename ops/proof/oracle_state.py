"""One read state of the oracle: what each event makes of it, straight from the interface."""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass, field
from typing import Any

ID_MAX = 2**63 - 1
U32_MAX = 2**32 - 1
MARKS_MAX = 64
FOR_GOOD = U32_MAX + 1  # the edit of a retraction without one: the message was deleted


class BadError(Exception):
    """The event is not valid, or cannot be applied."""


@dataclass
class State:
    """One read state. All zero is the same as none.

    `marks`: message ID → (edit, retracted), of the messages above `last_message_id`.
    """

    last_message_id: int = 0
    last_pin_timestamp: int = 0
    flags: int = 0
    last_viewed: int = 0
    marks: dict[int, tuple[int, bool]] = field(default_factory=dict)
    uncounted: int = 0
    uncounted_up_to: int = 0
    unread_version: int = 0  # of the last manual ack
    deleted_up_to: int = 0
    version: int = 0

    @property
    def mentions(self) -> list[int]:
        """Message IDs of the mentioned marks, ascending."""
        return sorted(m for m, (_, retracted) in self.marks.items() if not retracted)

    @property
    def mention_count(self) -> int:
        return min(len(self.mentions) + self.uncounted, U32_MAX)

    @property
    def shown(self) -> bool:
        """Whether replies have it."""
        return any(self.fields())

    def fields(self) -> tuple[int, int, int, int, int, int]:
        return (
            self.last_message_id,
            max(self.mentions, default=0),
            self.mention_count,
            self.last_pin_timestamp,
            self.flags,
            self.last_viewed,
        )

    def extra(self) -> bytes:
        """What the fields do not say, in the form in which the database keeps it."""
        if list(self.marks.values()) == [(0, False)] and not self.uncounted_up_to:
            marks = {}  # the fields say it
        else:
            marks = self.marks
        entries = [(0, m, edit << 1 | retracted) for m, (edit, retracted) in marks.items()]
        if self.uncounted_up_to:
            entries.append((1, self.uncounted_up_to, self.uncounted))
        if self.unread_version:
            entries.append((2, self.unread_version, 0))
        if self.deleted_up_to:
            entries.append((3, self.deleted_up_to, 0))
        if marks is not self.marks and entries:  # one form for each value
            entries.extend((0, m, 0) for m in self.marks)
        return b"".join(
            struct.pack("<qQ", value, tag << 40 | payload)
            for tag, value, payload in sorted(entries)
        )

    # -- events -------------------------------------------------------------------------------

    def ack(self, event: dict[str, Any], _version: int) -> None:
        message_id = id_of(event.get("message_id"))
        options, known = options_of(event), event.get("if_version")
        unread_since = known is not None and self.unread_version > id_of(known, 0)
        if message_id < self.last_message_id or message_id <= self.deleted_up_to or unread_since:
            return
        self._read_up_to(message_id)
        if message_id >= self.uncounted_up_to:
            self.uncounted = self.uncounted_up_to = 0
        self._set(options)

    def mark_unread(self, event: dict[str, Any], version: int) -> None:
        message_id, options = id_of(event.get("message_id")), options_of(event)
        ids, count = event.get("mention_ids"), event.get("mention_count")
        if "mention_ids" in event:
            if "mention_count" in event or not isinstance(ids, list) or len(ids) > MARKS_MAX:
                raise BadError
            ids = [id_of(each) for each in ids]
            if any(each <= message_id for each in ids):
                raise BadError
        elif "mention_count" in event:
            count = number_of(count, U32_MAX)
        if message_id <= self.deleted_up_to:
            return
        before = copy.deepcopy(self)
        highest = max(self.last_message_id, self.deleted_up_to, message_id)
        self._read_up_to(message_id)
        self.uncounted = self.uncounted_up_to = 0
        if ids is not None:
            for each in self.mentions:
                del self.marks[each]
            self.marks |= dict.fromkeys(ids, (0, False))
            self._give_up()
        elif count is not None:
            mentions = self.mentions
            for each in mentions[: max(0, len(mentions) - count)]:
                del self.marks[each]
            self.uncounted = count - len(self.mentions)
            self.uncounted_up_to = highest if self.uncounted else 0
        self._set(options)
        if self.fields() != before.fields() or self.extra() != before.extra():
            self.unread_version = version

    def mention(self, event: dict[str, Any], _version: int) -> None:
        message_id, edit = id_of(event.get("message_id")), number_of(event.get("edit", 0), U32_MAX)
        if message_id > max(self.last_message_id, self.deleted_up_to):
            self._mark(message_id, edit, retracted=False)

    def retract(self, event: dict[str, Any], _version: int) -> None:
        message_id = id_of(event.get("message_id"))
        edit = number_of(event["edit"], U32_MAX) if "edit" in event else FOR_GOOD
        if message_id > max(self.last_message_id, self.deleted_up_to):
            self._mark(message_id, edit, retracted=True)

    def pins_ack(self, event: dict[str, Any], _version: int) -> None:
        timestamp = number_of(event.get("timestamp"), 2**48 - 1)
        if not self.deleted_up_to:
            self.last_pin_timestamp = max(self.last_pin_timestamp, timestamp)

    def set(self, event: dict[str, Any], _version: int) -> None:
        options = options_of(event)
        if not options:
            raise BadError
        if not self.deleted_up_to:
            self._set(options)

    def merge(self, event: dict[str, Any], _version: int) -> None:
        """Every field keeps the larger value; marks that are there stay."""
        last = id_of(event.get("last_message_id", 0), 0)
        ids = event.get("mention_ids", [])
        if not isinstance(ids, list) or len(ids) > MARKS_MAX:
            raise BadError
        ids = [id_of(each) for each in ids]
        count = number_of(event["mention_count"], U32_MAX) if "mention_count" in event else None
        pins = number_of(event.get("last_pin_timestamp", 0), 2**48 - 1)
        options = options_of(event)
        if self.deleted_up_to:
            if max([last, *ids]) <= self.deleted_up_to:
                return
            self._come_back()
        newer = last > self.last_message_id
        if newer:
            self._read_up_to(last)
            if last >= self.uncounted_up_to:
                self.uncounted = self.uncounted_up_to = 0
        for each in ids:
            if each > self.last_message_id:
                self._mark(each, 0, retracted=False)
        if newer and count is not None and count > self.mention_count:
            self.uncounted = count - len(self.mentions)
            self.uncounted_up_to = max(self.uncounted_up_to, last)
        self.last_pin_timestamp = max(self.last_pin_timestamp, pins)
        self.flags = max(self.flags, options.get("flags", 0))
        self.last_viewed = max(self.last_viewed, options.get("last_viewed", 0))

    # -- parts of events ----------------------------------------------------------------------

    def _mark(self, message_id: int, edit: int, *, retracted: bool) -> None:
        if self.deleted_up_to and not retracted:
            self._come_back()
        if message_id <= self.uncounted_up_to:
            step = -1 if retracted else 1
            self.uncounted = min(max(0, self.uncounted + step), U32_MAX)
            return
        known = self.marks.get(message_id)
        if known is not None and known >= (edit, retracted):
            return
        self.marks[message_id] = (edit, retracted)
        self._give_up()

    def _give_up(self) -> None:
        """Of more than 64 marks the smallest is given up."""
        while len(self.marks) > MARKS_MAX:
            smallest = min(self.marks)
            _, retracted = self.marks.pop(smallest)
            self.uncounted = min(self.uncounted + (not retracted), U32_MAX)
            self.uncounted_up_to = max(self.uncounted_up_to, smallest)

    def _read_up_to(self, message_id: int) -> None:
        self.last_message_id, self.deleted_up_to = message_id, 0
        self.marks = {m: mark for m, mark in self.marks.items() if m > message_id}

    def _come_back(self) -> None:
        self.last_message_id, self.deleted_up_to = self.deleted_up_to, 0

    def _set(self, options: dict[str, int]) -> None:
        self.flags = options.get("flags", self.flags)
        self.last_viewed = options.get("last_viewed", self.last_viewed)


FOLDS = {
    "ack": State.ack,
    "mention": State.mention,
    "retract_mention": State.retract,
    "pins_ack": State.pins_ack,
    "set": State.set,
    "merge": State.merge,
}


def id_of(value: Any, least: int = 1) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        if value[0] == "0" and value != "0":
            raise BadError
        value = int(value)
    if type(value) is not int or not least <= value <= ID_MAX:
        raise BadError
    return value


def number_of(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadError
    return value


def options_of(event: dict[str, Any]) -> dict[str, int]:
    most = {"flags": U32_MAX, "last_viewed": 65535}
    return {name: number_of(event[name], top) for name, top in most.items() if name in event}
