"""What happened to every query, and whether that was right.

Pure: the load fills in `Asked`, the campaign hands over its windows of time, `judge` counts.

A query is accounted for when it was answered (with a reply or an error), or no broker took it in
time, or it was lost with its topic, or it went unanswered while a fault was at work: at its
deadline the service drops it. A query is lost with its topic if brokers took it while the topic was
being deleted, or just before. Anything else is `unaccounted`. Outside of windows nothing may be
answered twice, or after its deadline.

Versions: a query that was sent after a reply had come from its partition must not get a smaller
version than that reply had. That is stricter than the order of one owner's replies, for it also
holds across owners. It may be broken only where an owner does not yet know that it lost its
partitions: in windows of `ZOMBIE`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple

from ..proof.oracle import Seen

VERSION: Final = 8  # where it stands in what was seen
ZOMBIE = "zombie"
LATE_S = 0.1  # between the service's look at its clock and the stamp on its reply
ANSWER_S = 1.0  # an answer may take so long without being amiss
IN_TIME_S = 1.0  # a query that a broker took later than this before its deadline may be dropped


class Excuse(StrEnum):
    """How long queries may go unanswered because of a fault, or be answered twice, or late."""

    NEVER = "never"
    UNTIL_UNDONE = "until undone"
    UNTIL_WELL = "until all is well"


@dataclass(frozen=True)
class Window:
    """A time in which a fault was at work, until all was well again; seconds."""

    kind: str
    begin_s: float
    end_s: float

    def touches(self, begin_s: float, end_s: float) -> bool:
        return self.begin_s <= end_s and begin_s <= self.end_s


class Gone(NamedTuple):
    """A time from before the queries topic was deleted until there was a new one; seconds."""

    begin_s: float
    end_s: float

    def has(self, query: Asked) -> bool:
        """True if only the deleted topic had the query, and there was no time to answer it."""
        taken_s = query.taken_s
        return taken_s is not None and self.begin_s - ANSWER_S <= taken_s <= self.end_s


@dataclass(slots=True)
class Asked:
    """One query and what came back. Times in seconds of one clock."""

    user_id: int
    partition: int
    sent_s: float
    deadline_s: float
    channels: frozenset[int] | None = None
    since: int | None = None
    after_offset: int | None = None
    taken_s: float | None = None  # by a broker, as far as is known
    answered_s: float | None = None
    late_s: float = 0.0  # how long after its deadline the service made the answer
    error: str | None = None
    version: int = 0
    full: bool = True
    digest: int = 0  # of the reply's read states, as `expected` has them
    again_s: list[float] = field(default_factory=list)  # further answers

    def expected(self, states: list[Seen]) -> list[Seen]:
        """Which of the user's read states this query asks for."""
        if self.channels is not None:
            states = [state for state in states if state[0] == 0 and state[1] in self.channels]
        if not self.full and self.since is not None:
            states = [state for state in states if state[VERSION] > self.since]
        return states


@dataclass(frozen=True)
class Judged:
    """Counts over all queries; `right` says whether they are as they must be."""

    sent: int
    answered: int
    errors: dict[str, int]
    expired: int
    lost: int
    not_taken: int
    twice_inside: int
    twice_outside: int
    back_inside: int
    back_outside: int
    late_inside: int
    late_outside: int
    own_write_missing: int
    unaccounted: int
    examples: tuple[str, ...]

    @property
    def right(self) -> bool:
        outside = self.twice_outside + self.back_outside + self.late_outside
        return self.answered > 0 and not (outside + self.own_write_missing + self.unaccounted)


def judge(queries: Iterable[Asked], windows: Sequence[Window], gone: Sequence[Gone] = ()) -> Judged:
    """Account for every query; `gone` says when their topic did not exist."""
    queries = list(queries)
    count: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    examples: list[str] = []

    def disturbed(begin_s: float, end_s: float, kind: str | None = None) -> bool:
        return any(w.touches(begin_s, end_s) for w in windows if kind in (None, w.kind))

    for query in queries:
        last_s = max(query.deadline_s, query.answered_s or 0, *query.again_s, 0)
        inside = disturbed(query.sent_s, last_s)
        outcome = _outcome(query, inside, gone)
        count[outcome] += 1
        if outcome == "error":
            errors[str(query.error)] += 1
        if outcome == "unaccounted":
            examples.append(f"no answer and no fault: {query}")
        if query.again_s:
            count["twice_inside" if inside else "twice_outside"] += 1
            if not inside:
                examples.append(f"answered twice and no fault: {query}")
        if query.late_s > LATE_S:
            count["late_inside" if inside else "late_outside"] += 1
            if not inside:
                examples.append(f"answered after its deadline and no fault: {query}")
        if (
            outcome == "answered"
            and query.after_offset is not None
            and (query.version & ((1 << 48) - 1)) <= query.after_offset
        ):
            count["own_write_missing"] += 1
            examples.append(f"after_offset not reached: {query}")
    for query, seen in went_back(queries):
        assert query.answered_s is not None
        inside = disturbed(query.sent_s, query.answered_s, ZOMBIE)
        count["back_inside" if inside else "back_outside"] += 1
        if not inside:
            examples.append(f"version {seen} had been seen before: {query}")
    return Judged(
        sent=len(queries),
        answered=count["answered"],
        errors=dict(errors),
        expired=count["expired"],
        lost=count["lost"],
        not_taken=count["not_taken"],
        twice_inside=count["twice_inside"],
        twice_outside=count["twice_outside"],
        back_inside=count["back_inside"],
        back_outside=count["back_outside"],
        late_inside=count["late_inside"],
        late_outside=count["late_outside"],
        own_write_missing=count["own_write_missing"],
        unaccounted=count["unaccounted"],
        examples=tuple(examples[:10]),
    )


def _outcome(query: Asked, disturbed: bool, gone: Sequence[Gone]) -> str:
    if query.answered_s is not None:
        return "error" if query.error else "answered"
    if any(time.has(query) for time in gone):
        return "lost"
    if query.taken_s is None or query.taken_s > query.deadline_s - IN_TIME_S:
        return "not_taken"
    return "expired" if disturbed else "unaccounted"


def went_back(queries: Iterable[Asked]) -> list[tuple[Asked, int]]:
    """Queries sent after a reply with a larger version had come, with that version."""
    by_partition: dict[int, list[Asked]] = defaultdict(list)
    for query in queries:
        if query.answered_s is not None and not query.error:
            by_partition[query.partition].append(query)
    found = []
    for replied in by_partition.values():
        replied.sort(key=lambda query: query.answered_s or 0)
        times = [query.answered_s or 0 for query in replied]
        largest = list(accumulate((query.version for query in replied), max))
        for query in replied:
            before = bisect_left(times, query.sent_s)
            if before and largest[before - 1] > query.version:
                found.append((query, largest[before - 1]))
    return found
