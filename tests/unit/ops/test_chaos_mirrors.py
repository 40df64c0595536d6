"""The campaign's mirrors: right on a correct change feed, and wrong on each fraud."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from readstates.ops.chaos.mirrors import Mirrors, ToldRecord, in_windows
from readstates.ops.chaos.proof import LogRecord, fold
from readstates.ops.proof.mirror import Key, Told
from readstates.ops.proof.oracle import EPOCH, Oracle

USER, OTHER, HERE = 42, 43, (0, 7)
MENTION = {"type": "mention", "channel_id": 7}
EVENTS: list[tuple[int, dict[str, Any]]] = [
    (USER, {**MENTION, "message_id": 100}),
    (OTHER, {**MENTION, "message_id": 100}),
    (USER, {"type": "ack", "channel_id": 8, "message_id": 5}),
    (USER, {"type": "delete", "channel_id": 7}),
    (USER, {"type": "mention", "channel_id": 8, "message_id": 9}),
]
LOG = [
    LogRecord(0, offset, b"%d" % user, json.dumps({"user_id": user, **event}).encode(), offset)
    for offset, (user, event) in enumerate(EVENTS)
]


def told(user: int, position: int, *keys: Key, **more: Any) -> ToldRecord:
    """What a correct service says of a user when all before `position` is folded."""
    oracle = Oracle()
    for record in LOG[:position]:
        oracle.apply(record.key, record.value, record.offset)
    rows = {row[:2]: row for row in oracle.seen(user)}
    counts = [row[4] for row in rows.values()]
    given: dict[str, Any] = {
        "states": {key: rows[key] for key in keys if key in rows},
        "deleted": {key for key in keys if key not in rows},
        "all_deleted": False,
        "totals": (len(counts), sum(map(bool, counts)), sum(counts)),
        "causes": ["mention"],
        "part": (1, 1),
    }
    return ToldRecord(0, Told(user, EPOCH << 48 | position, **given | more), in_doubt=False)


THERE = (0, 8)
FEED = [
    told(USER, 1, HERE),
    told(OTHER, 2, HERE),
    told(USER, 4, HERE, THERE),
    told(USER, 5, THERE),
]


def mirrors(*feed: ToldRecord) -> Mirrors:
    return fold(LOG, [], feed).mirrors


def test_a_correct_feed() -> None:
    found = mirrors(*FEED)
    assert (found.told, found.late, found.compared, found.wrong) == (4, 0, 2, [])


def test_what_is_told_again_says_nothing_new() -> None:
    assert mirrors(*FEED[:3], told(USER, 4, HERE, THERE), FEED[3]).wrong == []


def test_a_late_record_of_an_owner_of_before() -> None:
    found = mirrors(*FEED[:3], FEED[0], FEED[3])
    assert (found.late, found.wrong) == (1, [])


@pytest.mark.parametrize("left_out", [1, 2, 3])  # a later record covers the first one
def test_a_record_that_is_missing(left_out: int) -> None:
    assert mirrors(*FEED[:left_out], *FEED[left_out + 1 :]).wrong


def test_an_older_value_with_a_newer_version() -> None:
    old, new = FEED[0].told, FEED[3].told
    assert mirrors(*FEED, replace(FEED[3], told=new._replace(states=old.states))).wrong


def test_a_deletion_that_is_forgotten() -> None:
    record = replace(FEED[2], told=FEED[2].told._replace(deleted=set()))
    assert any("F1" in text for text in mirrors(*FEED[:2], record, FEED[3]).wrong)


def test_wrong_totals() -> None:
    record = replace(FEED[3], told=FEED[3].told._replace(totals=(1, 1, 2)))
    assert any("totals" in text for text in mirrors(*FEED[:3], record).wrong)


def test_a_user_of_whom_the_log_knows_nothing() -> None:
    stranger = FEED[0].told._replace(user_id=7)
    assert mirrors(*FEED, replace(FEED[0], told=stranger)).wrong


def test_what_a_zombie_finds_gone_early_is_no_fraud_and_what_it_leaves_is() -> None:
    early = told(USER, 3, deleted={HERE})
    assert mirrors(*FEED[:2], early, *FEED[2:]).wrong
    assert mirrors(*FEED[:2], replace(early, in_doubt=True), *FEED[2:]).wrong == []
    last = told(USER, 5, deleted={THERE})
    assert any("F2" in text for text in mirrors(*FEED, replace(last, in_doubt=True)).wrong)


def test_windows() -> None:
    inside = in_windows([(1, 2), (5, 6)])
    assert [inside(at) for at in (0.5, 1, 1.5, 2.5, 6)] == [False, True, True, False, True]
