"""The proof: the log as it stands, folded by the demo's oracle, against everything that is visible.

1. Every record that a broker acknowledged is in the log. One may be there twice: some producers
   retry without idempotence.
2. Every read state in Cassandra is the fold's, with its version and its marks, and so is the mark
   of each final deletion; nothing else is there.
3. Every reply is what the fold was at the reply's version.
4. Dead letters are the records that the fold refuses, byte for byte, and no others.
5. A mirror of every user that reads the change feed is right at each record, and at the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ..proof.oracle import Oracle, Row
from .history import VERSION, Asked
from .mirrors import Mirrors, ToldRecord

MENTION_COUNT: Final = 4  # where it stands in a row
OFFSET_MASK = (1 << 48) - 1
NUMBER = "n"  # header: the producer's number of the record
EXAMPLES = 10


@dataclass(frozen=True)
class LogRecord:
    """One record of the updates topic, or a dead letter with the place of its original."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    number: int = -1


@dataclass
class Folded:
    """The log, folded; and what was seen on the way."""

    oracle: Oracle = field(default_factory=Oracle)
    records: int = 0
    bad: dict[tuple[int, int], LogRecord] = field(default_factory=dict)
    numbers: Counter[int] = field(default_factory=Counter)
    replies_checked: int = 0
    replies_wrong: list[str] = field(default_factory=list)
    mirrors: Mirrors = field(init=False)


@dataclass
class Differences:
    """How Cassandra differs from the fold, in read states."""

    compared: int = 0
    lost: int = 0  # missing, or of an older version
    doubled: int = 0  # a mention counted too often
    extra: int = 0  # there, and should not be
    differing: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.lost + self.doubled + self.extra + self.differing


def fold(
    records: Iterable[LogRecord], queries: Iterable[Asked], told: Iterable[ToldRecord] = ()
) -> Folded:
    """Fold the log; on the way hold replies and the change feed against the state at their version.

    `records`, `told`: of each partition in the order of offsets; partitions may alternate.
    """
    waiting = _by_place(queries)
    done = Folded()
    done.mirrors = Mirrors(done.oracle, told)
    for record in records:
        _check_replies(done, waiting[record.partition], record.offset)
        done.mirrors.follow(record.partition, record.offset)
        before = done.oracle.bad
        done.oracle.apply(record.key, record.value, record.offset)
        if done.oracle.bad > before:
            done.bad[record.partition, record.offset] = record
        done.records += 1
        done.numbers[record.number] += 1
    for left in waiting.values():
        _check_replies(done, left, OFFSET_MASK)
    done.mirrors.compare()
    return done


def _by_place(queries: Iterable[Asked]) -> dict[int, list[tuple[int, Asked]]]:
    """Replies by partition, the one with the smallest position last."""
    found: dict[int, list[tuple[int, Asked]]] = defaultdict(list)
    for query in queries:
        if query.answered_s is not None and not query.error:
            found[query.partition].append((query.version & OFFSET_MASK, query))
    for replied in found.values():
        replied.sort(key=lambda one: -one[0])
    return found


def _check_replies(done: Folded, waiting: list[tuple[int, Asked]], offset: int) -> None:
    """Those that were given when `offset` was the next record to be applied, or before."""
    while waiting and waiting[-1][0] <= offset:
        position, query = waiting.pop()
        expected = query.expected(done.oracle.seen(query.user_id))
        done.replies_checked += 1
        if hash(tuple(expected)) != query.digest:
            done.replies_wrong.append(f"not the fold at offset {position}: {query}")


def compare(oracle: Oracle, found: Iterable[tuple[int, Row]]) -> Differences:
    """Every read state of Cassandra, as (user, row), against the fold, both ways."""
    expected = {(user, *row[:2]): row for user in oracle.users for row in oracle.stored(user)}
    result = Differences(compared=len(expected))
    for user_id, row in found:
        wanted = expected.pop((user_id, *row[:2]), None)
        if wanted != row:
            _count(result, user_id, row, wanted)
    for key, wanted in expected.items():
        _count(result, key[0], None, wanted)
    return result


def _count(result: Differences, user_id: int, found: Row | None, wanted: Row | None) -> None:
    if wanted is None:
        result.extra += 1
    elif found is None or found[VERSION] < wanted[VERSION]:
        result.lost += 1
    elif found[MENTION_COUNT] > wanted[MENTION_COUNT]:
        result.doubled += 1
    else:
        result.differing += 1
    if len(result.examples) < EXAMPLES:
        result.examples.append(f"user {user_id}: Cassandra has {found}, the log says {wanted}")


def dead_letters(
    bad: dict[tuple[int, int], LogRecord], found: Iterator[LogRecord]
) -> tuple[int, list[str]]:
    """How many originals the dead letters name, and what is wrong; each at least once."""
    left, named, wrong = dict(bad), set(), []
    for letter in found:
        place = (letter.partition, letter.offset)
        named.add(place)
        left.pop(place, None)
        original = bad.get(place)
        if original is None:
            wrong.append(f"a dead letter of a good record: {letter}")
        elif (original.key, original.value) != (letter.key, letter.value):
            wrong.append(f"not as it came: {letter}, original {original}")
    wrong += [f"no dead letter: {record}" for record in left.values()]
    return len(named), wrong


def missing(numbers: Counter[int], acknowledged: Callable[[int], bool], sent: int) -> list[int]:
    """Numbers of records that a broker acknowledged and the log does not hold."""
    return [number for number in range(sent) if acknowledged(number) and not numbers[number]]
