"""What every read state must be: the log folded into plain dicts, straight from the interface.

Nothing here is shared with the service: the standard library's JSON, no table, no version check,
no limits on memory. It reads each record of the log once, in order.
"""

from __future__ import annotations

import copy
import json
import struct
from dataclasses import dataclass, field
from typing import Any

EPOCH = 8
ID_MAX = 2**63 - 1
U32_MAX = 2**32 - 1
MARKS_MAX = 64
BULK_ACKS_MAX = 1000
DAY_MS = 86_400_000
RESTORED = struct.pack("<qQ", 1, 3 << 40)  # the extra of a mark whose deletion has ended
FOR_GOOD = U32_MAX + 1  # the edit of a retraction without one: the message was deleted

Key = tuple[int, int]  # read_state_type, channel_id
Row = tuple[int, int, int, int, int, int, int, int, int, bytes]  # key, fields, version, extra

Seen = tuple[int, int, int, int, int, int, int, int, int, tuple[int, ...]]  # with its mentions


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
        message_id = _id(event.get("message_id"))
        options, known = _options(event), event.get("if_version")
        unread_since = known is not None and self.unread_version > _id(known, 0)
        if message_id < self.last_message_id or message_id <= self.deleted_up_to or unread_since:
            return
        self._read_up_to(message_id)
        if message_id >= self.uncounted_up_to:
            self.uncounted = self.uncounted_up_to = 0
        self._set(options)

    def mark_unread(self, event: dict[str, Any], version: int) -> None:
        message_id, options = _id(event.get("message_id")), _options(event)
        ids, count = event.get("mention_ids"), event.get("mention_count")
        if "mention_ids" in event:
            if "mention_count" in event or not isinstance(ids, list) or len(ids) > MARKS_MAX:
                raise BadError
            ids = [_id(each) for each in ids]
            if any(each <= message_id for each in ids):
                raise BadError
        elif "mention_count" in event:
            count = _number(count, U32_MAX)
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
        message_id, edit = _id(event.get("message_id")), _number(event.get("edit", 0), U32_MAX)
        if message_id > max(self.last_message_id, self.deleted_up_to):
            self._mark(message_id, edit, retracted=False)

    def retract(self, event: dict[str, Any], _version: int) -> None:
        message_id = _id(event.get("message_id"))
        edit = _number(event["edit"], U32_MAX) if "edit" in event else FOR_GOOD
        if message_id > max(self.last_message_id, self.deleted_up_to):
            self._mark(message_id, edit, retracted=True)

    def pins_ack(self, event: dict[str, Any], _version: int) -> None:
        timestamp = _number(event.get("timestamp"), 2**48 - 1)
        if not self.deleted_up_to:
            self.last_pin_timestamp = max(self.last_pin_timestamp, timestamp)

    def set(self, event: dict[str, Any], _version: int) -> None:
        options = _options(event)
        if not options:
            raise BadError
        if not self.deleted_up_to:
            self._set(options)

    def merge(self, event: dict[str, Any], _version: int) -> None:
        """Every field keeps the larger value; marks that are there stay."""
        last = _id(event.get("last_message_id", 0), 0)
        ids = event.get("mention_ids", [])
        if not isinstance(ids, list) or len(ids) > MARKS_MAX:
            raise BadError
        ids = [_id(each) for each in ids]
        count = _number(event["mention_count"], U32_MAX) if "mention_count" in event else None
        pins = _number(event.get("last_pin_timestamp", 0), 2**48 - 1)
        options = _options(event)
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
MESSAGES = {  # the fields of each type that name messages
    "ack": ("message_id",),
    "mention": ("message_id",),
    "retract_mention": ("message_id",),
    "merge": ("last_message_id", "mention_ids"),
    "delete": ("up_to",),
    "bulk_ack": ("acks",),
}
TYPES = {*FOLDS, "bulk_ack", "delete", "delete_user", "restore_user"}


class Oracle:
    """`apply` records in log order; `users[user][(type, channel)]` is a State.

    `final`: the users whose deletion was final, each with the version of that event; `restored`:
    those for whom it has ended, with the version of its end.
    `id_epoch_ms`: the setting ID_EPOCH_MS.
    """

    def __init__(self, user_states_max: int = 10**9, id_epoch_ms: int | None = None) -> None:
        self.users: dict[int, dict[Key, State]] = {}
        self.final: dict[int, int] = {}
        self.restored: dict[int, int] = {}
        self.bad = 0
        self._max = user_states_max
        self._id_epoch_ms = id_epoch_ms

    def apply(
        self, key: bytes | None, value: bytes | None, offset: int, timestamp_ms: int = 0
    ) -> None:
        """One record. Bad ones are counted and change nothing."""
        try:
            event, user_id = self._valid(key, value)
            if self._id_epoch_ms is not None:
                self._check_plausible(event, timestamp_ms)
            self._fold(event, user_id, (EPOCH << 48) | (offset + 1))
        except BadError:
            self.bad += 1

    def stored(self, user_id: int) -> list[Row]:
        """What the database must have. A user deleted for good has a mark that no channel has."""
        if user_id in self.final:
            return [(0, 0, 0, 0, 0, 0, 0, 0, self.final[user_id], b"")]
        if user_id in self.restored:
            ended = (0, 0, 0, 0, 0, 0, 0, 0, self.restored[user_id], RESTORED)
            return [ended, *self.rows(user_id)]
        return self.rows(user_id)

    def rows(self, user_id: int) -> list[Row]:
        """All read states: key, fields, version, extra; by type and channel."""
        states = self.users.get(user_id, {})
        return [
            (*key, *state.fields(), state.version, state.extra())
            for key, state in sorted(states.items())
        ]

    def shown(self, user_id: int) -> list[Row]:
        """Those of `rows` that a reply has."""
        states = self.users.get(user_id, {})
        return [row for row in self.rows(user_id) if states[row[:2]].shown]

    def seen(self, user_id: int) -> list[Seen]:
        """What a reply with `mentions` has: no entries, but the messages that mention the user."""
        states = self.users.get(user_id, {})
        return [(*row[:9], tuple(states[row[:2]].mentions)) for row in self.shown(user_id)]

    def _valid(self, key: bytes | None, value: bytes | None) -> tuple[dict[str, Any], int]:
        if value is None or len(value) > 256 * 1024:
            raise BadError
        try:
            event = json.loads(value.decode())
        except (ValueError, UnicodeDecodeError):
            raise BadError from None
        if not isinstance(event, dict) or event.get("type") not in TYPES:
            raise BadError
        user_id = _id(event.get("user_id"))
        if key != str(user_id).encode():
            raise BadError
        return event, user_id

    def _check_plausible(self, event: dict[str, Any], timestamp_ms: int) -> None:
        assert self._id_epoch_ms is not None
        names = MESSAGES.get(event["type"], ())
        if event.get("manual"):
            names = ("message_id", "mention_ids")
        for name in names:
            named = event.get(name, [])
            for each in named if isinstance(named, list) else [named]:
                message_id = _id(each.get("message_id") if isinstance(each, dict) else each, 0)
                if message_id and (message_id >> 22) + self._id_epoch_ms > timestamp_ms + DAY_MS:
                    raise BadError

    def _fold(self, event: dict[str, Any], user_id: int, version: int) -> None:
        kind = event["type"]
        states = self.users.setdefault(user_id, {})
        if kind == "delete_user":
            self._delete_user(event, user_id, version)
        elif kind == "restore_user":
            if self.final.pop(user_id, 0):
                self.restored[user_id] = version
        elif kind == "bulk_ack":
            self._bulk(user_id, states, event.get("acks"), version)
        else:
            where = (_number(event.get("read_state_type", 0), 255), _id(event.get("channel_id")))
            if kind == "delete":
                self._delete(user_id, states, where, event, version)
                return
            new = copy.deepcopy(states.get(where)) or State()
            fold = State.mark_unread if event.get("manual") else FOLDS[kind]
            fold(new, event, version)
            self._put(user_id, states, {where: new}, version)

    def _delete_user(self, event: dict[str, Any], user_id: int, version: int) -> None:
        final = event.get("final", False)
        if not isinstance(final, bool):
            raise BadError
        if user_id in self.final:
            return
        self.users[user_id] = {}
        self.restored.pop(user_id, None)
        if final:
            self.final[user_id] = version

    def _delete(
        self,
        user_id: int,
        states: dict[Key, State],
        where: Key,
        event: dict[str, Any],
        version: int,
    ) -> None:
        up_to = _id(event["up_to"]) if "up_to" in event else 0
        if user_id in self.final:
            return
        old = states.get(where) or State()
        if not up_to and not old.deleted_up_to:
            states.pop(where, None)
            return
        up_to = max(up_to, old.deleted_up_to)
        gone = State(deleted_up_to=up_to, version=old.version)
        if old.deleted_up_to:  # what is known of newer messages stays
            gone.marks = {m: mark for m, mark in old.marks.items() if m > up_to}
            gone.unread_version = old.unread_version
            gone.uncounted, gone.uncounted_up_to = old.uncounted, old.uncounted_up_to
        if gone.extra() != old.extra() or any(old.fields()):
            gone.version = version
            states[where] = gone

    def _put(
        self, user_id: int, states: dict[Key, State], new: dict[Key, State], version: int
    ) -> None:
        """All of `new`, or none of it."""
        if user_id in self.final:
            return
        changed = {}
        for where, state in new.items():
            old = states.get(where) or State()
            if state.fields() != old.fields() or state.extra() != old.extra():
                changed[where] = state
        appear = [w for w, s in changed.items() if s.shown and not self._is_shown(states, w)]
        shown = sum(state.shown for state in states.values())
        if appear and shown + len(appear) > self._max:
            raise BadError
        for where, state in changed.items():
            if not state.shown and where not in states and shown >= self._max:
                continue  # a retraction that would only be remembered
            state.version = version
            states[where] = state

    @staticmethod
    def _is_shown(states: dict[Key, State], where: Key) -> bool:
        return where in states and states[where].shown

    def _bulk(self, user_id: int, states: dict[Key, State], acks: Any, version: int) -> None:
        if not isinstance(acks, list) or not 1 <= len(acks) <= BULK_ACKS_MAX:
            raise BadError
        new: dict[Key, State] = {}
        for ack in acks:
            if not isinstance(ack, dict):
                raise BadError
            where = (_number(ack.get("read_state_type", 0), 255), _id(ack.get("channel_id")))
            state = new.get(where) or copy.deepcopy(states.get(where)) or State()
            state.ack({"message_id": ack.get("message_id")}, version)
            new[where] = state
        self._put(user_id, states, new, version)


def _id(value: Any, least: int = 1) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        if value[0] == "0" and value != "0":
            raise BadError
        value = int(value)
    if type(value) is not int or not least <= value <= ID_MAX:
        raise BadError
    return value


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadError
    return value


def _options(event: dict[str, Any]) -> dict[str, int]:
    most = {"flags": U32_MAX, "last_viewed": 65535}
    return {name: _number(event[name], top) for name, top in most.items() if name in event}
