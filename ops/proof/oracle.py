"""What every read state must be: the log folded into plain dicts, straight from the interface.

Nothing here is shared with the service: the standard library's JSON, no table, no version check,
no limits on memory. It reads each record of the log once, in order.
"""

from __future__ import annotations

import json
from typing import Any, cast

EPOCH = 8
ID_MAX = 2**63 - 1
Key = tuple[int, int]  # read_state_type, channel_id
Row = tuple[int, int, int, int, int, int, int, int, int]  # the key, the fields, the version
FIELDS = (
    "last_message_id",
    "last_mention_id",
    "mention_count",
    "last_pin_timestamp",
    "flags",
    "last_viewed",
)
TYPES = {"ack", "bulk_ack", "mention", "retract_mention", "pins_ack", "delete", "delete_user"}


class BadError(Exception):
    """The event is not valid."""


class Oracle:
    """`apply` records in log order; `users[user][(type, channel)]` is a dict of fields."""

    def __init__(self, user_states_max: int = 10**9) -> None:
        self.users: dict[int, dict[Key, dict[str, int]]] = {}
        self.bad = 0
        self._max = user_states_max

    def apply(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """One record. Bad ones are counted and change nothing."""
        try:
            event, user_id = self._valid(key, value)
            self._fold(event, user_id, (EPOCH << 48) | (offset + 1))
        except BadError:
            self.bad += 1

    def rows(self, user_id: int) -> list[Row]:
        """As the service's ReadState: type, channel, fields, version; by type and channel."""
        states = self.users.get(user_id, {})
        return [
            cast(Row, (*key, *(state[name] for name in FIELDS), state["version"]))
            for key, state in sorted(states.items())
        ]

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

    def _fold(self, event: dict[str, Any], user_id: int, version: int) -> None:
        kind = event["type"]
        states = self.users.setdefault(user_id, {})
        if kind == "delete_user":
            states.clear()
            return
        if kind == "bulk_ack":
            self._bulk(states, event.get("acks"), version)
            return
        where = (_number(event.get("read_state_type", 0), 255), _id(event.get("channel_id")))
        if kind == "delete":
            states.pop(where, None)
            return
        new = dict(states.get(where) or dict.fromkeys((*FIELDS, "version"), 0))
        {
            "ack": self._mark if event.get("manual") else self._ack,
            "mention": self._mention,
            "retract_mention": self._retract,
            "pins_ack": self._pins,
        }[kind](new, event)
        self._put(states, where, new, version)

    def _put(
        self, states: dict[Key, dict[str, int]], where: Key, new: dict[str, int], version: int
    ) -> None:
        old = states.get(where)
        before = [old[name] for name in FIELDS] if old else [0] * len(FIELDS)
        if [new[name] for name in FIELDS] == before:
            return
        if old is None and len(states) >= self._max:
            raise BadError
        new["version"] = version
        states[where] = new

    def _bulk(self, states: dict[Key, dict[str, int]], acks: Any, version: int) -> None:
        if not isinstance(acks, list) or not 1 <= len(acks) <= 1000:
            raise BadError
        merged: dict[Key, int] = {}
        for ack in acks:
            if not isinstance(ack, dict):
                raise BadError
            where = (_number(ack.get("read_state_type", 0), 255), _id(ack.get("channel_id")))
            merged[where] = max(merged.get(where, 0), _id(ack.get("message_id")))
        if len(states) + len(merged.keys() - states.keys()) > self._max and (
            merged.keys() - states.keys()
        ):
            raise BadError
        for where, message_id in merged.items():
            new = dict(states.get(where) or dict.fromkeys((*FIELDS, "version"), 0))
            self._ack(new, {"message_id": message_id})
            self._put(states, where, new, version)

    @staticmethod
    def _ack(state: dict[str, int], event: dict[str, Any]) -> None:
        message_id = _id(event.get("message_id"))
        _options(event)
        if message_id < state["last_message_id"]:
            return
        state["last_message_id"] = message_id
        if message_id >= state["last_mention_id"]:
            state["mention_count"] = 0
        state.update(_options(event))

    @staticmethod
    def _mark(state: dict[str, int], event: dict[str, Any]) -> None:
        state["last_message_id"] = _id(event.get("message_id"))
        state["mention_count"] = _number(event.get("mention_count", 0), 2**32 - 1)
        state.update(_options(event))

    @staticmethod
    def _mention(state: dict[str, int], event: dict[str, Any]) -> None:
        message_id = _id(event.get("message_id"))
        if message_id > state["last_message_id"] and message_id != state["last_mention_id"]:
            state["mention_count"] = min(state["mention_count"] + 1, 2**32 - 1)
            state["last_mention_id"] = max(state["last_mention_id"], message_id)

    @staticmethod
    def _retract(state: dict[str, int], event: dict[str, Any]) -> None:
        message_id = _id(event.get("message_id"))
        if message_id > state["last_message_id"] and state["mention_count"] > 0:
            state["mention_count"] -= 1

    @staticmethod
    def _pins(state: dict[str, int], event: dict[str, Any]) -> None:
        timestamp = _number(event.get("timestamp"), 2**48 - 1)
        state["last_pin_timestamp"] = max(state["last_pin_timestamp"], timestamp)


def _id(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and value[0] != "0":
        value = int(value)
    if type(value) is not int or not 1 <= value <= ID_MAX:
        raise BadError
    return value


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadError
    return value


def _options(event: dict[str, Any]) -> dict[str, int]:
    most = {"flags": 2**32 - 1, "last_viewed": 65535}
    return {name: _number(event[name], top) for name, top in most.items() if name in event}
