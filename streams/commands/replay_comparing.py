"""Finds the recorded reply and the new reply of each query of a replay, and compares them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from readstates.schemas.headers import (
    DEADLINE_MAX_MS,
    HEADER_CORRELATION_ID,
    HEADER_REPLY_TOPIC,
    reply_address,
)
from readstates.schemas.version import OFFSET_BITS

from ..comparison.findings import DIFFERENT, EQUAL
from ..comparison.said import Said, number, parsed_or_not, said_of
from ..comparison.tally import Tally
from ..comparison.two_logs import StrangeVersionError, TwoLogs
from .recording import Recorded

EARLY_MAX = 10_000  # recorded replies that come before their query; of more, the oldest are dropped
UPDATE_LATE_MS = 10_000  # a recorder reads every update sooner than this after it was there
AT_END_MS = 1 << 62
RECORDED_WAIT_MS = DEADLINE_MAX_MS + 10_000  # no recorded reply comes later after its query
STRANGE = "a read state was changed by an update that is not in the recording"
OTHER_DELTA = "a delta of another log"

Joined = tuple[bytes | None, bytes | None]  # reply topic and correlation ID of the recorded query


@dataclass(slots=True)
class Asked:
    """A query that was sent, and what is known of its replies."""

    value: Any
    joined: Joined
    partition: int
    timestamp_ms: int  # of the recording
    recorded_since: int | None  # as it was recorded
    since: int | None  # of the query as it was sent; in the common number, if there are two logs
    recorded: Said | None = None
    replied: Said | None = None


class Comparing:
    """See the module. `logs`: of a recording that is replayed; None if both are of one log.

    `other_log`: the recorded versions mean nothing here and are left out on both sides.
    The reply reader calls `replied` in its own thread; everything else is of one thread.
    """

    def __init__(self, tally: Tally, logs: TwoLogs | None, other_log: bool) -> None:
        self.tally, self.logs = tally, logs
        self.not_recorded = 0  # queries without a recorded reply
        self.unexpected = 0  # recorded replies without a query
        self.unanswered = 0  # queries with a recorded reply and without a new one; see `finish`
        self._other_log = other_log
        self._epoch: int | None = None  # of the log into which the replay goes
        self._asked: dict[bytes, Asked] = {}  # by correlation ID of the replay, oldest first
        self._by_join: dict[Joined, bytes] = {}
        self._early: dict[Joined, Said] = {}
        self._by_time: deque[tuple[int, bytes]] = deque()  # ms of the recording
        self._complete: deque[tuple[bytes, Asked]] = deque()
        self._arrived: deque[tuple[bytes, bytes | None, Mapping[str, bytes | None]]] = deque()

    # -- what the replay tells ----------------------------------------------------------------

    def updated(self, record: Recorded) -> Any:
        """An update is sent. Returns what is to be called with the offset that it gets."""
        if self.logs is None or record.offset is None:
            return None
        self.logs.sent(record.partition, record.offset)
        return partial(self.logs.delivered, record.partition)

    def asked(self, recorded: Recorded, anew: Recorded, correlation_id: bytes) -> Recorded:
        """A query is sent. Returns it as it is to be sent."""
        address = reply_address(recorded.headers)
        assert address is not None
        joined = (address.topic.encode(), address.correlation_id)
        value = parsed_or_not(anew.value)
        since = number(value.get("since_version")) if isinstance(value, dict) else None
        asked = Asked(value, joined, recorded.partition, recorded.timestamp_ms, since, since)
        if since is not None and (self.logs is not None or self._other_log):
            anew = self._with_since(anew, asked, since)
        asked.recorded = self._early.pop(joined, None)
        self._asked[correlation_id] = asked
        self._by_join[joined] = correlation_id
        self._by_time.append((recorded.timestamp_ms, correlation_id))
        return anew

    def recorded(self, record: Recorded) -> None:
        """A reply of the recording."""
        headers = dict(record.headers)
        joined = headers.pop(HEADER_REPLY_TOPIC, None), headers.pop(HEADER_CORRELATION_ID, None)
        said = said_of(record.value, headers)
        correlation_id = self._by_join.get(joined, b"")
        asked = self._asked.get(correlation_id)
        if asked is None:
            if len(self._early) >= EARLY_MAX:
                del self._early[next(iter(self._early))]
                self.unexpected += 1
            self._early.setdefault(joined, said)
        elif asked.recorded is None:  # the client took the first
            asked.recorded = said
            self._note_complete(correlation_id, asked)

    def recorded_value(self, correlation_id: bytes, reply: Any) -> None:
        """The reply to a query just asked, whose headers are not known."""
        self._asked[correlation_id].recorded = Said(reply)

    def replied(
        self, correlation_id: bytes, value: bytes | None, headers: Mapping[str, bytes | None]
    ) -> None:
        """A new reply; in the thread of the reader."""
        self._arrived.append((correlation_id, value, headers))

    # -- comparing ----------------------------------------------------------------------------

    def settle(self, now_ms: int) -> None:
        """Compare the pairs that are complete; `now_ms`: how far the recording has been read."""
        while self._arrived:
            correlation_id, value, headers = self._arrived.popleft()
            asked = self._asked.get(correlation_id)
            if asked is not None and asked.replied is None:
                asked.replied = said_of(value, headers)
                self._note_epoch(asked.replied)
                self._note_complete(correlation_id, asked)
        for _ in range(len(self._complete)):
            correlation_id, asked = self._complete.popleft()
            assert asked.recorded is not None
            assert asked.replied is not None
            if self._knows_updates(asked, asked.recorded, asked.replied, now_ms):
                self._forget(correlation_id)
                self._compare(asked, asked.recorded, asked.replied)
            else:
                self._complete.append((correlation_id, asked))
        while self._by_time and self._by_time[0][0] + RECORDED_WAIT_MS < now_ms:
            asked = self._asked.get(self._by_time.popleft()[1])
            if asked is not None and asked.recorded is None:
                self._forget(self._by_join[asked.joined])
                self.not_recorded += 1

    def _knows_updates(self, asked: Asked, recorded: Said, replied: Said, now_ms: int) -> bool:
        """Whether the versions of both replies can be translated.

        The recorder may have read a reply shortly before an update that the reply knows.
        """
        logs, partition = self.logs, asked.partition
        if logs is None:
            return True
        is_late = now_ms > asked.timestamp_ms + UPDATE_LATE_MS
        return logs.has_delivered(partition, replied.body) and (
            is_late or logs.has_sent(partition, recorded.body)
        )

    def finish(self) -> None:
        """No reply comes any more, and all updates are delivered: compare and count the rest."""
        self.settle(AT_END_MS)
        rest = self._asked.values()
        self.not_recorded += sum(asked.recorded is None for asked in rest)
        self.unanswered = sum(
            asked.recorded is not None and asked.replied is None for asked in rest
        )
        self.unexpected += len(self._early)

    @property
    def is_good(self) -> bool:
        """Nothing differs, every query was answered, and something was equal."""
        counts = self.tally.counts
        return not counts[DIFFERENT] and not self.unanswered and counts[EQUAL] > 0

    def summary(self) -> dict[str, Any]:
        """All counts, for JSON."""
        return {
            **self.tally.summary(),
            "unanswered": self.unanswered,
            "not_recorded": self.not_recorded,
            "unexpected": self.unexpected,
        }

    def lines(self) -> list[str]:
        """All counts, for people."""
        return [
            *self.tally.lines(),
            f"not answered: {self.unanswered}; no recorded reply: {self.not_recorded}; "
            f"recorded replies without a query: {self.unexpected}",
        ]

    def _note_complete(self, correlation_id: bytes, asked: Asked) -> None:
        if asked.recorded is not None and asked.replied is not None:
            self._complete.append((correlation_id, asked))

    def _forget(self, correlation_id: bytes) -> None:
        asked = self._asked.pop(correlation_id)
        if self._by_join.get(asked.joined) == correlation_id:
            del self._by_join[asked.joined]

    def _compare(self, asked: Asked, recorded: Said, replied: Said) -> None:
        query, partition = asked.value, asked.partition
        recorded_since = asked.recorded_since
        if self.logs is not None and recorded_since is not None:
            recorded_since = self.logs.position(partition, recorded_since)
        first = recorded._replace(since=recorded_since)
        second = replied._replace(since=asked.since)
        if self._other_log:
            if isinstance(first.body, dict) and first.body.get("full") is False:
                self.tally.not_comparable(query, partition, first.body, second.body, OTHER_DELTA)
                return
            first, second = (_without_versions(each) for each in (first, second))
        elif self.logs is not None:
            try:
                first = first._replace(body=self.logs.recorded(partition, first.body))
                second = second._replace(body=self.logs.replayed(partition, second.body))
            except StrangeVersionError:
                self.tally.not_comparable(query, partition, first.body, second.body, STRANGE)
                return
        self.tally.compare(query, partition, first, second)

    # -- versions -----------------------------------------------------------------------------

    def _with_since(self, anew: Recorded, asked: Asked, since: int) -> Recorded:
        """The query with a `since_version` of the other log, or without, where none is known."""
        body = parsed_or_not(anew.value)
        del body["since_version"]
        asked.since = None
        if self.logs is not None and self._epoch is not None:
            there = self.logs.since(asked.partition, since, self._epoch)
            if there is not None:
                body["since_version"], asked.since = str(there[0]), there[1]
        return anew._replace(value=orjson.dumps(body, default=float))

    def _note_epoch(self, said: Said) -> None:
        if isinstance(said.body, dict) and said.version is not None:
            self._epoch = said.version >> OFFSET_BITS


def _without_versions(said: Said) -> Said:
    if not isinstance(said.body, dict):
        return said
    body = {name: value for name, value in said.body.items() if name != "version"}
    states = body.get("read_states")
    if isinstance(states, list):
        body["read_states"] = [
            {name: value for name, value in state.items() if name != "version"}
            if isinstance(state, dict)
            else state
            for state in states
        ]
    return said._replace(body=body)
