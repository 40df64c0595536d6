"""Finds the two replies of each query while a candidate runs beside the live workers.

One role sends its reply to the client, the other one sends it to the shadow topic. Both replies and
the query belong together by the query's key and correlation ID. They may arrive in any order. What
is not complete after PAIR_WAIT_S is dropped and counted, and so is the oldest of more than
PENDING_MAX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .said import Said, number, parsed_or_not, said_of
from .tally import Tally

PAIR_WAIT_S = 75.0  # over the longest time that a query may have
PENDING_MAX = 200_000
LIVE, CANDIDATE = "live", "candidate"
AMBIGUOUS = "two queries of the user have one correlation ID"

Name = tuple[bytes, bytes]  # key and correlation ID of the query


class Message(NamedTuple):
    """A record as it came."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]
    correlation_id: bytes | None  # from the header or, in Faust's dialect, from the value


@dataclass(slots=True)
class _Pending:
    since_s: float
    query: Any = None
    partition: int = -1  # -1: the query has not been seen
    sent: Said | None = None
    shadows: dict[str, Said] = field(default_factory=dict)  # by role
    is_ambiguous: bool = False


class TwoRoles:
    """See the module. Results are counted in `tally`, whose sides are live and candidate."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._pending: dict[Name, _Pending] = {}  # oldest first
        self.without_pair = 0  # queries of which a reply is missing
        self.without_query = 0  # replies to queries from before the beginning, for example

    def query(self, message: Message, partition: int, now_s: float) -> None:
        pending = self._of(message, message.key, now_s)
        if pending is None:
            return
        if pending.partition >= 0:
            pending.is_ambiguous = True
        pending.query, pending.partition = parsed_or_not(message.value), partition
        self._settle(message, message.key, pending)

    def sent(self, message: Message, now_s: float) -> None:
        """A reply in a topic of a client; the client takes the first."""
        key = _key_of(message)
        pending = self._of(message, key, now_s)
        if pending is not None and pending.sent is None:
            pending.sent = said_of(message.value, message.headers)
            self._settle(message, key, pending)

    def shadow(self, message: Message, role: str, now_s: float) -> None:
        """A reply in the shadow topic, of that role."""
        key = _key_of(message)
        pending = self._of(message, key, now_s)
        if pending is not None and role in (LIVE, CANDIDATE):
            pending.shadows.setdefault(role, said_of(message.value, message.headers))
            self._settle(message, key, pending)

    def expire(self, now_s: float) -> None:
        """Drop what has waited for too long."""
        while self._pending:
            name = next(iter(self._pending))
            is_over = self._pending[name].since_s + PAIR_WAIT_S < now_s
            if not is_over and len(self._pending) <= PENDING_MAX:
                break
            self._drop(self._pending.pop(name))

    def finish(self) -> None:
        """Count what is still not complete."""
        for pending in self._pending.values():
            self._drop(pending)
        self._pending.clear()

    @property
    def pending(self) -> int:
        return len(self._pending)

    def _of(self, message: Message, key: bytes | None, now_s: float) -> _Pending | None:
        if key is None or message.correlation_id is None:
            return None
        return self._pending.setdefault((key, message.correlation_id), _Pending(now_s))

    def _settle(self, message: Message, key: bytes | None, pending: _Pending) -> None:
        """Compare the pair if it is complete.

        If both replies are in the shadow topic, the share has just changed, and the client got one
        of them too, or none; either way the two are compared.
        """
        if pending.partition < 0:
            return
        live, candidate = (pending.shadows.get(role) for role in (LIVE, CANDIDATE))
        if live is None and candidate is not None:
            live = pending.sent
        elif candidate is None and live is not None:
            candidate = pending.sent
        if live is None or candidate is None:
            return
        assert key is not None
        assert message.correlation_id is not None
        del self._pending[key, message.correlation_id]
        query, partition = pending.query, pending.partition
        if pending.is_ambiguous:
            self._tally.not_comparable(query, partition, live.body, candidate.body, AMBIGUOUS)
            return
        since = number(query.get("since_version")) if isinstance(query, dict) else None
        first, second = live._replace(since=since), candidate._replace(since=since)
        self._tally.compare(query, partition, first, second)

    def _drop(self, pending: _Pending) -> None:
        if pending.partition < 0:
            self.without_query += 1
        else:
            self.without_pair += 1


def _key_of(message: Message) -> bytes | None:
    """The key of the query: a reply in Faust's dialect has it in the value."""
    if message.key is None:
        body = parsed_or_not(message.value)
        if isinstance(body, dict) and isinstance(body.get("key"), str):
            key: str = body["key"]
            return key.encode()
    return message.key
