"""The change feed of a real service, read by a mirror that knows the log of updates as well."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from readstates.ops.proof.mirror import Key, Mirror, Told, told_by
from readstates.ops.proof.oracle import EPOCH, Oracle, Seen

from .service import USER_STATES_MAX, Service
from .waiting import until
from .wire import PARTITIONS, TopicReader, partition_of


@dataclass
class History:
    """The read states of one user: `states[i]` holds from `versions[i]` on."""

    versions: list[int] = field(default_factory=lambda: [0])
    states: list[dict[Key, Seen]] = field(default_factory=lambda: [{}])


class FeedReader:
    """Reads updates and changes from their beginnings. A broken promise is an AssertionError."""

    def __init__(self, service: Service, user_states_max: int = USER_STATES_MAX) -> None:
        wire = service.wire
        self._oracle = Oracle(user_states_max)
        self._wire = wire
        self._updates = TopicReader(wire.bootstrap, wire.updates, PARTITIONS)
        self._topic = f"{wire.prefix}.changes"
        self._changes = TopicReader(wire.bootstrap, self._topic, PARTITIONS)
        self._known: dict[int, History] = {}
        self._next, self._told = [0] * PARTITIONS, [0] * PARTITIONS
        self.mirror = Mirror(self._should)
        self.told: list[Told] = []

    def _should(self, user_id: int, version: int) -> dict[Key, Seen]:
        known = self._known.get(user_id, History())
        return known.states[bisect.bisect_right(known.versions, version) - 1]

    def _fold(self) -> None:
        """Read the log of updates to its end as it is now."""
        ends = self._wire.ends(self._wire.updates)
        while any(read < end for read, end in zip(self._next, ends, strict=True)):
            message = self._updates.poll(1)
            if message is None:
                continue
            number, offset, key = message.partition(), message.offset(), message.key()
            assert number is not None
            assert offset is not None
            self._next[number] = offset + 1
            self._oracle.apply(key, message.value(), offset)
            if key is None or not key.isdigit():
                continue
            user_id = int(key)
            known = self._known.setdefault(user_id, History())
            known.versions.append(EPOCH << 48 | offset + 1)
            known.states.append({row[:2]: row for row in self._oracle.seen(user_id)})

    def _records(self) -> Iterator[Message]:
        """The records up to the feed's ends as they are now."""
        ends = self._wire.ends(self._topic)
        while any(told < end for told, end in zip(self._told, ends, strict=True)):
            message = self._changes.poll(1)
            if message is not None:
                number, offset = message.partition(), message.offset()
                assert number is not None
                assert offset is not None
                self._told[number] = offset + 1
                yield message

    def read(self) -> list[Told]:
        """Apply the changes that have come, and check each (F1); returns them."""
        came = list(self._records())
        self._fold()
        found = []
        for message in came:
            value, key = message.value(), message.key()
            assert message.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME
            assert value is not None
            told = told_by(value, dict(message.headers() or []))
            assert key == str(told.user_id).encode()
            assert message.partition() == partition_of(told.user_id)
            self.mirror.apply(told)
            found.append(told)
        self.told += found
        return found

    def missing(self) -> list[int]:
        """The users of whom the mirror does not hold what the log says."""
        self.read()
        return [
            user_id
            for user_id, known in self._known.items()
            if known.states[-1] != (held.states if (held := self.mirror.held.get(user_id)) else {})
        ]

    def wait_complete(self, timeout_s: float = 60.0) -> None:
        """Until nothing is missing (F2)."""
        until(lambda: not self.missing(), "the mirror is the fold of the log", timeout_s)

    def wait_for(self, user_id: int, version: int) -> Told:
        """The first record of a user that has an update of this version."""

        def look() -> Told | None:
            self.read()
            of_user = (told for told in self.told if told.user_id == user_id)
            return next((told for told in of_user if told.version >= version), None)

        return until(look, f"a change of user {user_id} at {version}")

    def close(self) -> None:
        self._updates.close()
        self._changes.close()
