"""What every read state must be: the log folded into plain dicts, straight from the interface.

Nothing here is shared with the service: the standard library's JSON, no table, no version check,
no limits on memory. It reads each record of the log once, in order.
"""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

from .oracle_state import FOLDS, BadError, State, id_of, number_of

EPOCH = 8
BULK_ACKS_MAX = 1000
DAY_MS = 86_400_000
RESTORED = struct.pack("<qQ", 1, 3 << 40)  # the extra of a mark whose deletion has ended

Key = tuple[int, int]  # read_state_type, channel_id
Row = tuple[int, int, int, int, int, int, int, int, int, bytes]  # key, fields, version, extra
Seen = tuple[int, int, int, int, int, int, int, int, int, tuple[int, ...]]  # with its mentions

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
        self,
        key: bytes | None,
        value: bytes | None,
        offset: int,
        timestamp_ms: int = 0,
        epoch: int = EPOCH,
    ) -> None:
        """One record. Bad ones are counted and change nothing."""
        try:
            event, user_id = self._valid(key, value)
            if self._id_epoch_ms is not None:
                self._check_plausible(event, timestamp_ms)
            self._fold(event, user_id, (epoch << 48) | (offset + 1))
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
        user_id = id_of(event.get("user_id"))
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
                message_id = id_of(each.get("message_id") if isinstance(each, dict) else each, 0)
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
            where = (
                number_of(event.get("read_state_type", 0), 255),
                id_of(event.get("channel_id")),
            )
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
        up_to = id_of(event["up_to"]) if "up_to" in event else 0
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
            where = (number_of(ack.get("read_state_type", 0), 255), id_of(ack.get("channel_id")))
            state = new.get(where) or copy.deepcopy(states.get(where)) or State()
            state.ack({"message_id": ack.get("message_id")}, version)
            new[where] = state
        self._put(user_id, states, new, version)
