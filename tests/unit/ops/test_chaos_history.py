"""The campaign's judge of queries: each rule kept, and broken by a doctored history."""

from __future__ import annotations

from dataclasses import replace

import pytest

from readstates.ops.chaos.campaign import Fault
from readstates.ops.chaos.history import ZOMBIE, Asked, Excuse, Gone, Judged, Window, judge

QUIET: list[Window] = []


def asked(
    sent_s: float, answered_s: float | None = None, version: int = 10, **more: object
) -> Asked:
    query = Asked(7, 3, sent_s, sent_s + 5, taken_s=sent_s + 0.01, answered_s=answered_s)
    query.version = version
    for name, value in more.items():
        setattr(query, name, value)
    return query


def one(query: Asked, windows: list[Window] = QUIET) -> Judged:
    """Judged together with a query that is answered as it should be."""
    return judge([asked(1000, 1001, version=10**6), query], windows)


def test_answered() -> None:
    found = one(asked(0, 1))
    assert (found.sent, found.answered, found.right) == (2, 2, True)


def test_nothing_answered_proves_nothing() -> None:
    assert not judge([], QUIET).right


def test_error() -> None:
    found = one(asked(0, 1, error="overloaded"))
    assert found.errors == {"overloaded": 1}
    assert found.right


def test_no_answer() -> None:
    """Right only where a fault was at work in the query's time."""
    assert one(asked(0)).unaccounted == 1
    assert not one(asked(0)).right
    found = one(asked(0), [Window("x", 4, 9)])
    assert (found.expired, found.unaccounted, found.right) == (1, 0, True)
    assert one(asked(0), [Window("x", 5.1, 9)]).unaccounted == 1


@pytest.mark.parametrize("taken_s", [None, 4.5])
def test_not_in_kafka_in_time(taken_s: float | None) -> None:
    found = one(asked(0, taken_s=taken_s))
    assert (found.not_taken, found.unaccounted, found.right) == (1, 0, True)


@pytest.mark.parametrize("taken_s", [-0.9, 0.5, 2])
def test_lost_with_its_topic(taken_s: float) -> None:
    """Also if its deadline was in the time of a fault."""
    query = asked(-1, taken_s=taken_s)
    for windows in (QUIET, [Window("x", 0, 9)]):
        found = judge([asked(1000, 1001, version=10**6), query], windows, [Gone(0, 2)])
        assert (found.lost, found.expired, found.unaccounted, found.right) == (1, 0, 0, True)


@pytest.mark.parametrize("taken_s", [-1.1, 2.1])
def test_what_was_taken_much_earlier_or_by_the_new_topic_is_not_lost(taken_s: float) -> None:
    found = judge([asked(1000, 1001), asked(taken_s, taken_s=taken_s)], QUIET, [Gone(0, 2)])
    assert (found.lost, found.unaccounted, found.right) == (0, 1, False)


def test_what_no_broker_took_is_not_lost() -> None:
    found = judge([asked(1000, 1001), asked(0, taken_s=None)], QUIET, [Gone(0, 2)])
    assert (found.lost, found.not_taken, found.right) == (0, 1, True)


@pytest.mark.parametrize(
    ("excuse", "unaccounted"),
    [(Excuse.NEVER, 2), (Excuse.UNTIL_UNDONE, 1), (Excuse.UNTIL_WELL, 0)],
)
def test_how_long_a_fault_excuses(excuse: Excuse, unaccounted: int) -> None:
    """One query while it is at work, and one after it is undone, before all is well again."""
    fault = Fault("x", 10, end_s=20, well_s=90, excuse=excuse)
    found = judge([asked(1000, 1001), asked(12), asked(40)], fault.windows)
    assert (found.unaccounted, found.expired) == (unaccounted, 2 - unaccounted)


def test_answered_twice() -> None:
    query = asked(0, 1, again_s=[2.0])
    assert one(query).twice_outside == 1
    assert not one(query).right
    found = one(query, [Window("x", 1.5, 3)])
    assert (found.twice_inside, found.twice_outside, found.right) == (1, 0, True)


def test_answered_after_its_deadline() -> None:
    query = asked(0, 6, late_s=0.5)
    assert (one(query).late_outside, one(query).right) == (1, False)
    found = one(query, [Window("x", 1.5, 3)])
    assert (found.late_inside, found.late_outside, found.right) == (1, 0, True)


def test_version_goes_back() -> None:
    """A reply seen before the query was sent had a larger version."""
    history = [asked(0, 1, version=20), asked(2, 3, version=19)]
    found = judge(history, QUIET)
    assert (found.back_outside, found.right) == (1, False)
    assert judge(history, [Window("worker killed", 0, 9)]).back_outside == 1
    inside = judge(history, [Window(ZOMBIE, 2.5, 9)])
    assert (inside.back_inside, inside.back_outside, inside.right) == (1, 0, True)


def test_versions_that_do_not_go_back() -> None:
    under_way = [asked(0, 2, version=20), asked(1, 3, version=19)]  # sent before that reply came
    other = [asked(0, 1, version=20), replace(asked(2, 3, version=19), partition=4)]
    equal = [asked(0, 1, version=20), asked(2, 3, version=20)]
    for history in (under_way, other, equal):
        assert judge(history, QUIET).right


def test_own_write_not_seen() -> None:
    """`after_offset` 9 is seen at version 10: position 10 is the next to be applied."""
    seen = asked(0, 1, version=(8 << 48) | 10, after_offset=9)
    assert judge([seen], QUIET).right
    unseen = asked(0, 1, version=(8 << 48) | 9, after_offset=9)
    assert judge([unseen], QUIET).own_write_missing == 1
    assert not judge([unseen], QUIET).right
