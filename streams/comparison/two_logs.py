"""Makes versions of two logs comparable: a recorded one, and the one into which it was replayed.

A replay sends each recorded update again, into the same partition and in the same order, and there
it gets another offset and so another version. Both kinds of version are translated into one number:
the offset of the recorded update plus 1, as in a version of epoch 0, or 0 for what is older than
the recording.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Any

from readstates.schemas.version import OFFSET_BITS, offset_of

from .said import number


class StrangeVersionError(ValueError):
    """A read state was changed by an update that is not in the recording."""


class TwoLogs:
    """The offsets of all updates that were sent again: 16 bytes an update.

    For each partition, `sent` is called for each update in order, and `delivered` likewise.
    """

    def __init__(self, partitions: int) -> None:
        self._recorded = [array("q") for _ in range(partitions)]
        self._replayed = [array("q") for _ in range(partitions)]

    def sent(self, partition: int, recorded: int) -> None:
        """The update with the recorded offset is under way."""
        self._recorded[partition].append(recorded)

    def delivered(self, partition: int, replayed: int) -> None:
        """The next update under way got this offset."""
        self._replayed[partition].append(replayed)

    def has_sent(self, partition: int, recorded: Any) -> bool:
        """Whether all updates that a recorded reply knows were surely sent."""
        return _reaches(self._recorded[partition], recorded)

    def has_delivered(self, partition: int, replayed: Any) -> bool:
        """Whether all updates that a reply of the replay knows were delivered."""
        known = self._replayed[partition]
        return len(known) == len(self._recorded[partition]) or _reaches(known, replayed)

    def since(self, partition: int, version: int, epoch: int) -> tuple[int, int] | None:
        """A version of the replay's log for a recorded `since_version`, and the common number.

        None if the recording has no update at or below it that has been delivered.
        """
        offsets = self._recorded[partition]
        at = bisect_right(offsets, offset_of(version), 0, len(self._replayed[partition]))
        if not at:
            return None
        return (epoch << OFFSET_BITS) | (self._replayed[partition][at - 1] + 1), offsets[at - 1] + 1

    def recorded(self, partition: int, body: Any) -> Any:
        """A recorded reply with common versions. Raises StrangeVersionError."""
        return self._translated(partition, body, self._recorded[partition])

    def replayed(self, partition: int, body: Any) -> Any:
        """A reply of the replay with common versions. Raises StrangeVersionError."""
        return self._translated(partition, body, self._replayed[partition])

    def position(self, partition: int, version: int) -> int:
        """The common number of a recorded version."""
        return self._common(partition, version, self._recorded[partition])

    def _translated(self, partition: int, body: Any, offsets: array[int]) -> Any:
        version = number(body.get("version")) if isinstance(body, dict) else None
        if version is None:
            return body
        epoch = version >> OFFSET_BITS
        made = {**body, "version": self._as_before(partition, body["version"], offsets)}
        states = body.get("read_states")
        if isinstance(states, list):
            made["read_states"] = [
                self._state(partition, state, offsets, epoch) for state in states
            ]
        return made

    def _state(self, partition: int, state: Any, offsets: array[int], epoch: int) -> Any:
        version = number(state.get("version")) if isinstance(state, dict) else None
        if version is None:
            return state
        if version >> OFFSET_BITS != epoch:  # of an earlier log
            return {**state, "version": type(state["version"])(0)}
        at = bisect_right(offsets, offset_of(version))
        if at and offsets[at - 1] != offset_of(version):
            raise StrangeVersionError
        return {**state, "version": self._as_before(partition, state["version"], offsets)}

    def _as_before(self, partition: int, version: Any, offsets: array[int]) -> Any:
        """The common number in the type that the version had: text or integer."""
        return type(version)(self._common(partition, int(version), offsets))

    def _common(self, partition: int, version: int, offsets: array[int]) -> int:
        at = bisect_right(offsets, offset_of(version))
        return self._recorded[partition][at - 1] + 1 if at else 0


def _reaches(offsets: array[int], body: Any) -> bool:
    """Whether the position of a reply is not beyond these offsets; an error has none."""
    version = number(body.get("version")) if isinstance(body, dict) else None
    return version is None or (bool(offsets) and offset_of(version) <= offsets[-1])
