"""A consumer of the change feed that checks it: F1 and F2, straight from the interface.

Nothing here is shared with the service: the standard library's JSON, and rules as the interface has
them. The mirror begins with nothing, at the beginning of the feed. It skips a record whose version
is below the one that it holds of the user; otherwise a read state, or a deletion, replaces what is
older.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .oracle import Seen

Key = tuple[int, int]  # read_state_type, channel_id
States = Mapping[Key, Seen]


class Told(NamedTuple):
    """A record of the change feed."""

    user_id: int
    version: int
    states: dict[Key, Seen]
    deleted: set[Key]
    all_deleted: bool
    totals: tuple[int, int, int]
    causes: list[str]
    part: tuple[int, int]


def told_by(value: bytes, headers: Mapping[str, bytes]) -> Told:
    """What a record says."""
    change: dict[str, Any] = json.loads(value)
    names = {"user_id", "version", "read_states", "deleted", "totals"}
    assert names <= change.keys() <= names | {"all_deleted"}, change
    states = {}
    for state in change["read_states"]:
        key = (state["read_state_type"], int(state["channel_id"]))
        last, mention = int(state["last_message_id"]), int(state["last_mention_id"])
        numbers = (state[name] for name in ("last_pin_timestamp", "flags", "last_viewed"))
        mentions = tuple(map(int, state["mentions"]))
        count, version = state["mention_count"], int(state["version"])
        states[key] = (*key, last, mention, count, *numbers, version, mentions)
    first, _, last_part = headers.get("read-states-part", b"1/1").decode().partition("/")
    totals = change["totals"]
    return Told(
        int(change["user_id"]),
        int(change["version"]),
        states,
        {(key["read_state_type"], int(key["channel_id"])) for key in change["deleted"]},
        change.get("all_deleted", False),
        (totals["read_states"], totals["mentioned"], totals["mentions"]),
        headers["read-states-cause"].decode().split(","),
        (int(first), int(last_part)),
    )


@dataclass
class Held:
    """What the mirror holds of a user."""

    version: int = 0
    states: dict[Key, Seen] = field(default_factory=dict)


class Mirror:
    """See the module. `should`: the read states that a user has at a version, by an oracle.

    What is wrong is an AssertionError.
    """

    def __init__(self, should: Callable[[int, int], States]) -> None:
        self._should = should
        self.held: dict[int, Held] = {}
        self._newest: dict[tuple[Hashable, int], int] = {}  # version, by owner and user
        self.records = self.skipped = 0

    def version(self, user_id: int) -> int:
        """The version that the mirror holds of a user; 0 before the first record."""
        return self.held[user_id].version if user_id in self.held else 0

    def apply(self, told: Told, owner: Hashable = None, *, is_ahead: bool = False) -> None:
        """Apply a record, and check it.

        `owner`: who wrote it, if that is known. `is_ahead`: the owner may have found something gone
        that was deleted after the record's version, because there was another owner.
        """
        if owner is not None:
            newest = self._newest.get((owner, told.user_id), 0)
            assert told.version >= newest, f"F2: {owner} told {told} after version {newest}"
            self._newest[owner, told.user_id] = told.version
        held = self.take(told)
        should = self._should(told.user_id, told.version)
        self._check_states(told, should)
        if is_ahead:
            return
        self._check_rest(told, should)
        is_whole = told.part[0] == told.part[1] and told.version == held.version
        assert not is_whole or held.states == should, (
            f"F1: after {told} the mirror holds {held.states}, but `get` would answer {should}"
        )

    def take(self, told: Told) -> Held:
        """Apply a record without a check; returns what is held of the user then."""
        self.records += 1
        held = self.held.setdefault(told.user_id, Held())
        if told.version < held.version:
            self.skipped += 1
        else:
            self._replace(held, told)
        return held

    @staticmethod
    def _replace(held: Held, told: Told) -> None:
        held.version = told.version
        if told.all_deleted:
            held.states.clear()
        for key in told.deleted:
            held.states.pop(key, None)
        for key, state in told.states.items():
            if key not in held.states or held.states[key][8] <= state[8]:
                held.states[key] = state

    @staticmethod
    def _check_states(told: Told, should: States) -> None:
        """Skipped or not, a record says what held at its version."""
        for key, state in told.states.items():
            assert should.get(key) == state, f"F1: {told}: {key} should be {should.get(key)}"

    @staticmethod
    def _check_rest(told: Told, should: States) -> None:
        gone = should.keys() & told.deleted
        if told.all_deleted and told.part == (1, 1):
            gone |= should.keys() - told.states.keys()
        assert not gone, f"F1: {told}: {gone} is not deleted"
        counts = [state[4] for state in should.values()]
        totals = len(counts), sum(count > 0 for count in counts), sum(counts)
        assert told.totals == totals, f"F1: {told}: the totals should be {totals}"
