"""The campaign's proof: right on what a correct service leaves behind, and wrong on each fraud."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from readstates.ops.chaos.history import Asked
from readstates.ops.chaos.proof import Folded, LogRecord, compare, dead_letters, fold, missing
from readstates.ops.proof.oracle import Row, Seen

USER, CHANNEL, EPOCH = 42, 7, 8


def record(offset: int, event: Any, user: int = USER) -> LogRecord:
    value = event if isinstance(event, bytes) else json.dumps({"user_id": user, **event}).encode()
    return LogRecord(0, offset, b"%d" % user, value, offset)


def mention(message_id: int) -> dict[str, Any]:
    return {"type": "mention", "channel_id": CHANNEL, "message_id": message_id}


LOG = [
    record(0, mention(100)),
    record(1, b"not JSON"),
    record(2, mention(101)),
    record(3, {"type": "ack", "channel_id": 8, "message_id": 5}),
]


def replied(position: int, rows: list[Seen], **more: Any) -> Asked:
    query = Asked(USER, 0, 0.0, 5.0, answered_s=1.0, digest=hash(tuple(rows)), **more)
    query.version = (EPOCH << 48) | position
    return query


def folded(*queries: Asked) -> Folded:
    return fold(iter(LOG), queries)


def rows_now() -> list[Row]:
    return folded().oracle.rows(USER)


def rows_in_cassandra() -> list[tuple[int, Row]]:
    return [(USER, row) for row in rows_now()]


def test_fold_counts_what_it_sees() -> None:
    done = folded()
    assert done.records == 4
    assert list(done.bad) == [(0, 1)]
    assert [row[4] for row in rows_now()] == [2, 0]  # mentions


def test_equal() -> None:
    found = compare(folded().oracle, rows_in_cassandra())
    assert (found.compared, found.total, found.examples) == (2, 0, [])


def test_lost() -> None:
    oracle = folded().oracle
    assert compare(oracle, rows_in_cassandra()[1:]).lost == 1
    before = fold(LOG[:2], []).oracle.rows(USER)
    stale = [(USER, before[0]), rows_in_cassandra()[1]]
    assert compare(oracle, stale).lost == 1


def test_doubled() -> None:
    (user, row), other = rows_in_cassandra()
    counted_twice = (*row[:4], row[4] + 1, *row[5:])
    found = compare(folded().oracle, [(user, counted_twice), other])
    assert (found.doubled, found.total) == (1, 1)


def test_not_deleted() -> None:
    more = [*rows_in_cassandra(), (USER + 1, rows_now()[0])]
    assert compare(folded().oracle, more).extra == 1


def test_other_marks_differ() -> None:
    (user, row), other = rows_in_cassandra()
    found = compare(folded().oracle, [(user, (*row[:9], row[9] + bytes(16))), other])
    assert (found.differing, found.total) == (1, 1)


def test_the_mark_of_a_final_deletion_is_all_that_is_left() -> None:
    log = [*LOG, record(4, {"type": "delete_user", "final": True}), record(5, mention(102))]
    oracle = fold(log, []).oracle
    mark: Row = (0, 0, 0, 0, 0, 0, 0, 0, (EPOCH << 48) | 5, b"")
    assert compare(oracle, [(USER, mark)]).total == 0
    assert compare(oracle, []).lost == 1
    assert compare(oracle, [(USER, mark), *rows_in_cassandra()]).extra == 2


def test_differing() -> None:
    (user, row), other = rows_in_cassandra()
    found = compare(folded().oracle, [(user, (*row[:6], row[6] + 1, *row[7:])), other])
    assert (found.differing, found.total) == (1, 1)


def test_replies() -> None:
    """Each is held against the state at its own version, not at the log's end."""
    nothing: list[Seen] = []
    first, both = fold(LOG[:1], []).oracle.seen(USER), folded().oracle.seen(USER)
    good = [
        replied(0, nothing),
        replied(1, first),
        replied(2, first),
        replied(4, both),
        replied(4, both[:1], channels=frozenset([CHANNEL])),
        replied(4, both[1:], since=(EPOCH << 48) | 3, full=False),
        replied(4, both, since=(EPOCH << 48) | 3, full=True),
    ]
    done = folded(*good)
    assert (done.replies_checked, done.replies_wrong) == (len(good), [])


def test_wrong_replies() -> None:
    first, both = fold(LOG[:1], []).oracle.seen(USER), folded().oracle.seen(USER)
    other_mention = [(*both[0][:9], (100, 102)), both[1]]
    bad = [
        replied(4, other_mention),
        replied(4, first),  # behind its version
        replied(1, both),  # ahead of it
        replied(4, both, channels=frozenset([CHANNEL])),  # more than was asked for
        replied(4, both, since=(EPOCH << 48) | 3, full=False),  # the same
        replied(4, []),
    ]
    assert len(folded(*bad).replies_wrong) == len(bad)


def test_dead_letters() -> None:
    bad = folded().bad
    letter = LogRecord(0, 1, b"42", b"not JSON")
    assert dead_letters(bad, iter([letter])) == (1, [])
    assert dead_letters(bad, iter([letter, letter])) == (1, [])  # at least once
    for wrong in (
        [],
        [letter, LogRecord(0, 2, b"42", LOG[2].value)],
        [LogRecord(0, 1, b"42", b"not JSON ")],
    ):
        assert len(dead_letters(bad, iter(wrong))[1]) == 1


def test_missing_in_the_log() -> None:
    numbers = Counter([0, 2, 2])
    assert missing(numbers, lambda _: True, 3) == [1]
    assert missing(numbers, lambda number: number != 1, 3) == []
