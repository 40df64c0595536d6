"""Two replies of one log are never different; planted faults are, where the log cannot be why."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from readstates.streams.comparison.compare import LIMIT, MOMENT, compare
from readstates.streams.comparison.findings import DIFFERENT, EQUAL, MISSING, NOT_COMPARABLE
from readstates.streams.comparison.said import Said, parsed
from tests.support.events import EPOCH_BITS
from tests.support.expected_replies import mentions, shown
from tests.support.two_replies import (
    USER,
    Moment,
    history,
    question,
    reply,
    said,
)

SEEDS = 40
RECORDS = 60
PAIRS = 20
Body = dict[str, Any]
ALL: Body = {"type": "get", "user_id": str(USER), "mentions": True, "totals": True}


def two_moments(rand: random.Random, moments: list[Moment], apart: bool) -> tuple[Moment, Moment]:
    one = rand.randrange(10, len(moments))
    other = min(len(moments) - 1, one + rand.randint(1, 5)) if apart else one
    pair = [moments[one], moments[other]]
    rand.shuffle(pair)
    return pair[0], pair[1]


def test_replies_of_one_log_are_never_different() -> None:
    """K1, and that most of them can be compared: what changed is rarely what was asked for."""
    results: Counter[str] = Counter()
    for seed in range(SEEDS):
        rand = random.Random(seed)
        moments, _ = history(rand, RECORDS)
        for _ in range(PAIRS):
            one, other = two_moments(rand, moments, apart=rand.random() < 0.8)
            query = question(rand, max(one.version, other.version))
            bodies = reply(rand, one, query), reply(rand, other, query)
            found = compare(query, *(said(rand, body, query) for body in bodies))
            assert found.result != DIFFERENT, (seed, query, bodies, found)
            if one is other:
                assert found.result == EQUAL, (seed, query, bodies, found)
            results[found.result] += 1
    assert results[EQUAL] > results[NOT_COMPARABLE] > 50


# -- planted faults -------------------------------------------------------------------------------


def pins_cut(body: Body) -> None:
    for state in body["read_states"]:
        state["last_pin_timestamp"] -= state["last_pin_timestamp"] % 1000


def as_text(body: Body) -> None:
    body["read_states"].sort(key=lambda state: (state["read_state_type"], state["channel_id"]))


def without_field(body: Body) -> None:
    for state in body["read_states"]:
        del state["flags"]


def count_as_text(body: Body) -> None:
    for state in body["read_states"]:
        state["mention_count"] = str(state["mention_count"])


def lost(body: Body) -> None:
    del body["read_states"][:1]


FAULTS: dict[str, Callable[[Body], None]] = {
    "pins cut to seconds": pins_cut,
    "channels ordered as text": as_text,
    "a missing field": without_field,
    "a number as text": count_as_text,
    "a lost read state": lost,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_at_one_version_a_fault_is_found(fault: str) -> None:
    """K2: whatever the query was, if the fault changes the reply."""
    harmed = 0
    for seed in range(SEEDS):
        rand = random.Random(seed)
        moments, _ = history(rand, RECORDS)
        for _ in range(PAIRS):
            moment = rand.choice(moments[10:])
            query = question(rand, moment.version)
            state = rand.getstate()
            good = reply(rand, moment, query)
            rand.setstate(state)  # the same choice between a complete reply and a delta
            bad = reply(rand, moment, query)
            FAULTS[fault](bad)
            found = compare(query, said(rand, good, query), said(rand, bad, query))
            assert (found.result == DIFFERENT) == (good != bad), (seed, query, good, bad, found)
            harmed += good != bad
    assert harmed > 100


def same_rows(one: Moment, other: Moment) -> set[tuple[int, int]]:
    """The places that both moments show and that no record between them has changed."""
    rows = [
        {row[:2]: (*row[:9], mentions(row)) for row in shown(moment.rows)}
        for moment in (one, other)
    ]
    return {place for place in rows[0] if rows[0][place] == rows[1].get(place)}


def must_be_found(fault: str, good: Body, bad: Body, one: Moment, other: Moment) -> bool:
    """Whether the log cannot be why the replies of two moments do not agree.

    `good` is what the faulty service should have replied, at the moment `other`.
    """
    stay = same_rows(one, other)
    known = {(s["read_state_type"], int(s["channel_id"])): s for s in good["read_states"]}
    if fault == "pins cut to seconds":
        return any(known[place]["last_pin_timestamp"] % 1000 for place in stay)
    if fault == "channels ordered as text":
        return good != bad
    if fault == "a lost read state":  # in the later reply, a deletion may be why
        return other.version < one.version and next(iter(known), None) in stay
    return bool(good["read_states"] and shown(one.rows))


@pytest.mark.parametrize("fault", FAULTS)
def test_at_two_versions_a_fault_is_found_if_the_log_cannot_be_why(fault: str) -> None:
    found_faults = 0
    for seed in range(SEEDS):
        rand = random.Random(seed)
        moments, _ = history(rand, RECORDS)
        for _ in range(PAIRS):
            one, other = two_moments(rand, moments, apart=True)
            first, good = reply(rand, one, ALL), reply(rand, other, ALL)
            bad = copy.deepcopy(good)
            FAULTS[fault](bad)
            found = compare(ALL, said(rand, first, ALL), said(rand, bad, ALL))
            turned = compare(ALL, said(rand, bad, ALL), said(rand, first, ALL))
            assert found.result == turned.result
            if must_be_found(fault, good, bad, one, other):
                assert found.result == DIFFERENT, (seed, first, bad, found)
                found_faults += 1
    assert found_faults > 100


@pytest.mark.parametrize("apart", [False, True])
def test_a_forgotten_mention_is_found(apart: bool) -> None:
    """The faulty service has folded a log without that record."""
    found_faults = 0
    for seed in range(SEEDS * 2):
        rand = random.Random(seed)
        state = rand.getstate()
        moments, events = history(rand, RECORDS)
        some = [n for n, event in enumerate(events) if event["type"] == "mention"]
        forgotten = rand.choice(some[len(some) // 2 :])
        again = random.Random()
        again.setstate(state)
        wrong, _ = history(again, RECORDS, forgotten)
        for at in range(forgotten + 1, min(forgotten + 9, RECORDS)):
            other = min(RECORDS, at + rand.randint(1, 3)) if apart else at
            bodies = reply(rand, moments[at], ALL), reply(rand, wrong[other], ALL)
            found = compare(ALL, *(said(rand, body, ALL) for body in bodies))
            stay = same_rows(moments[at], moments[other])
            harmed = stay - same_rows(moments[at], wrong[other])
            later = {row[:2] for row in shown(wrong[other].rows)}
            if harmed & later or (harmed and not apart):
                assert found.result == DIFFERENT, (seed, bodies, found)
                found_faults += 1
    assert found_faults > 50


def test_a_delta_leaves_out_no_deletion() -> None:
    """So what an earlier reply has, and a later delta should have and does not, is lost."""
    row = {"channel_id": "5", "read_state_type": 0, "flags": 1, "version": "7"}
    earlier = Said({"user_id": "1", "version": "8", "full": True, "read_states": [row]})
    later = {"user_id": "1", "version": "9", "full": False, "read_states": []}
    query = {"since_version": "6"}
    assert compare(query, earlier, Said(later, since=6)).result == DIFFERENT
    assert compare(query, earlier, Said(later, since=7)).result == EQUAL
    assert compare(query, earlier, Said({**later, "full": True}, since=6)).result == NOT_COMPARABLE


def error(code: str, limit: int | None = None) -> Said:
    more = {} if limit is None else {"limit": limit}
    body = {"user_id": "1", "error": {"code": code, "message": f"text {limit}", **more}}
    return Said(body, {"read-states-error": code.encode()})


ANSWER = Said({"user_id": "1", "version": "9", "full": True, "read_states": []}, {})


@pytest.mark.parametrize(
    ("first", "second", "result", "what"),
    [
        (error("overloaded"), error("overloaded"), EQUAL, ""),
        (error("overloaded"), error("not_caught_up"), DIFFERENT,
         "header read-states-error, error.code"),
        (error("invalid_query"), ANSWER, DIFFERENT, "error"),
        (error("reply_too_large", 5), ANSWER, DIFFERENT, "error"),
        (error("reply_too_large", 5), error("reply_too_large", 6), NOT_COMPARABLE, LIMIT),
        (error("store_unavailable"), ANSWER, NOT_COMPARABLE, f"{MOMENT}store_unavailable"),
        (error("overloaded"), error("overloaded")._replace(headers={}), DIFFERENT,
         "header read-states-error"),
        (error("overloaded"), Said({"error": {"code": "overloaded", "message": "x"}}), DIFFERENT,
         "user_id"),
        (Said({"user_id": "1", "error": 5}), ANSWER, DIFFERENT, "error"),
        (Said([1]), ANSWER, DIFFERENT, "reply"),
        (Said([1]), Said([1]), EQUAL, ""),
    ],
)  # fmt: skip
def test_errors(first: Said, second: Said, result: str, what: str) -> None:
    for pair in ((first, second), (second, first)):
        found = compare({}, *pair)
        assert found.result == result
        names = [difference.field for difference in found.differences]
        assert ", ".join(names + found.reasons) == what


def test_a_difference_says_what_and_where() -> None:
    rand = random.Random(1)
    moments, _ = history(rand, RECORDS)
    good = reply(rand, moments[-1], ALL)
    bad = copy.deepcopy(good)
    state = bad["read_states"][0]
    state["flags"] += 1
    found = compare(ALL, said(rand, good, ALL), said(rand, bad, ALL))
    (difference,) = found.differences
    place = f"{state['read_state_type']}:{state['channel_id']}"
    assert difference.field == f"read_states[{place}].flags"
    assert (difference.first, difference.second) == (state["flags"] - 1, state["flags"])
    assert difference.version == int(state["version"]) > EPOCH_BITS


@pytest.mark.parametrize(
    ("name", "value"),
    [("user_id", "2"), ("full", False), ("version", 9), ("totals", {}), ("surprise", 1)],
)
def test_the_fields_of_the_reply_itself(name: str, value: Any) -> None:
    other = ANSWER._replace(body={**ANSWER.body, name: value})
    for pair in ((ANSWER, other), (other, ANSWER)):
        found = compare({"type": "get"}, *pair)
        assert [difference.field for difference in found.differences] == [name]
    without = {key: each for key, each in other.body.items() if key != name}
    if name in ANSWER.body:
        found = compare({}, ANSWER, ANSWER._replace(body=without))
        assert (found.differences[0].field, found.differences[0].second) == (name, MISSING)


def test_replies_without_versions_are_of_one_moment() -> None:
    """Those of a service that has no versions, about users whose read states are at rest."""
    row = {"channel_id": "5", "read_state_type": 0, "flags": 1}
    one = Said({"user_id": "1", "read_states": [row]})
    assert compare({}, one, Said(copy.deepcopy(one.body))).result == EQUAL
    other = Said({"user_id": "1", "read_states": [{**row, "flags": 2}]})
    found = compare({}, one, other)
    assert [(d.field, d.version) for d in found.differences] == [("read_states[0:5].flags", None)]


def test_no_digit_is_lost() -> None:
    assert parsed(b'{"a": 123456789012345678901234567890}') == {"a": 123456789012345678901234567890}
    assert not isinstance(parsed(b"1.0"), int)
    for text in (b"NaN", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011
            parsed(text)


def test_a_read_state_newer_than_its_reply_is_not_judged() -> None:
    """An owner that was expelled without knowing may answer with such a mixture."""
    row = {"channel_id": "5", "read_state_type": 0, "flags": 1, "version": "12"}
    ahead = Said({"user_id": "1", "version": "9", "full": True, "read_states": [row]})
    found = compare({}, ahead, ANSWER)
    assert (found.result, len(found.reasons)) == (NOT_COMPARABLE, 1)
    assert compare({}, ahead, ahead).result == EQUAL
