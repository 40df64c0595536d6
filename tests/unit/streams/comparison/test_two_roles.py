"""The replies of two roles find each other, in whatever order they and their query arrive."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from readstates.streams.comparison import two_roles
from readstates.streams.comparison.tally import Sides, Tally
from readstates.streams.comparison.two_roles import (
    AMBIGUOUS,
    CANDIDATE,
    LIVE,
    PAIR_WAIT_S,
    Message,
    TwoRoles,
)

KEY = b"42"
Step = Callable[[TwoRoles], None]


def body(flags: int = 1, version: int = 9, **more: Any) -> bytes:
    row = {"channel_id": "5", "read_state_type": 0, "flags": flags, "version": "7"}
    made = {"user_id": "42", "version": str(version), "full": True, "read_states": [row], **more}
    return json.dumps(made).encode()


def query(number: int = 1, key: bytes = KEY, **more: Any) -> Message:
    value = json.dumps({"type": "get", "user_id": key.decode(), **more}).encode()
    return Message(key, value, {}, b"%d" % number)


def reply(value: bytes, number: int = 1, key: bytes | None = KEY) -> Message:
    return Message(key, value, {}, b"%d" % number)


def roles() -> tuple[TwoRoles, Tally]:
    tally = Tally(Sides(LIVE, CANDIDATE))
    return TwoRoles(tally), tally


@pytest.mark.parametrize("shadow", [LIVE, CANDIDATE])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_any_order_and_either_side_in_the_shadow(shadow: str, order: tuple[int, ...]) -> None:
    """The first value is always the live one, whichever of the two the client got."""
    one, tally = roles()
    values = {LIVE: body(flags=1), CANDIDATE: body(flags=2)}
    to_client = values[CANDIDATE if shadow == LIVE else LIVE]
    steps: list[Step] = [
        lambda r: r.query(query(), 3, 0.0),
        lambda r: r.sent(reply(to_client), 0.0),
        lambda r: r.shadow(reply(values[shadow]), shadow, 0.0),
    ]
    for number in order:
        assert tally.first_difference is None
        steps[number](one)
    assert tally.first_difference is not None
    assert (tally.first_difference.first, tally.first_difference.second) == (1, 2)
    assert one.pending == 0


def test_both_in_the_shadow_while_the_share_changes() -> None:
    one, tally = roles()
    one.query(query(), 0, 0.0)
    one.shadow(reply(body()), CANDIDATE, 0.0)
    one.shadow(reply(body()), LIVE, 0.0)
    assert tally.counts["equal"] == 1


def test_a_delta_is_judged_by_the_queries_version() -> None:
    one, tally = roles()
    empty: dict[str, Any] = {"full": False, "read_states": []}
    one.query(query(since_version="7"), 0, 0.0)
    one.sent(reply(body(**empty)), 0.0)
    one.shadow(reply(body()), CANDIDATE, 0.0)
    assert tally.counts == {"equal": 1, "different": 0, "not_comparable": 0}
    one.query(query(since_version="6"), 0, 0.0)
    one.sent(reply(body(**empty)), 0.0)
    one.shadow(reply(body()), CANDIDATE, 0.0)
    assert tally.counts["different"] == 1


def test_fausts_dialect_has_the_key_in_the_value() -> None:
    one, tally = roles()
    value = {"key": "42", "value": json.loads(body()), "correlation_id": "1", "__faust": {}}
    one.query(query(), 0, 0.0)
    wrapped = reply(json.dumps(value).encode(), key=None)
    one.sent(wrapped, 0.0)
    one.shadow(wrapped, CANDIDATE, 0.0)
    assert tally.counts["equal"] == 1


def test_another_users_or_queries_reply_is_not_taken() -> None:
    one, tally = roles()
    one.query(query(1), 0, 0.0)
    one.query(query(1, key=b"43"), 0, 0.0)
    one.sent(reply(body(), 1), 0.0)
    one.shadow(reply(body(), 2), CANDIDATE, 0.0)
    one.shadow(reply(body(), 1, key=b"43"), CANDIDATE, 0.0)
    one.shadow(reply(body()), "another role", 0.0)
    one.sent(reply(body(), key=None), 0.0)
    one.sent(Message(KEY, body(), {}, None), 0.0)
    assert sum(tally.counts.values()) == 0
    one.finish()
    assert (one.without_pair, one.without_query) == (2, 1)


def test_two_queries_with_one_correlation_id_are_not_comparable() -> None:
    one, tally = roles()
    one.query(query(), 0, 0.0)
    one.query(query(totals=True), 0, 0.0)
    one.sent(reply(body()), 0.0)
    one.shadow(reply(body(flags=3)), CANDIDATE, 0.0)
    assert tally.reasons == {AMBIGUOUS: 1}
    assert tally.counts["different"] == 0


def test_the_client_takes_the_first() -> None:
    one, tally = roles()
    one.sent(reply(body()), 0.0)
    one.sent(reply(body(flags=9)), 0.0)
    one.shadow(reply(body()), CANDIDATE, 0.0)
    one.shadow(reply(body(flags=9)), CANDIDATE, 0.0)
    one.query(query(), 0, 0.0)
    assert tally.counts["equal"] == 1


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = roles()
    one.query(query(1), 0, 100.0)
    one.sent(reply(body(), 2), 101.0)
    one.expire(100.0 + PAIR_WAIT_S)
    assert one.pending == 2
    one.expire(100.5 + PAIR_WAIT_S)
    assert (one.pending, one.without_pair, one.without_query) == (1, 1, 0)
    one.expire(101.5 + PAIR_WAIT_S)
    assert (one.pending, one.without_pair, one.without_query) == (0, 1, 1)
    monkeypatch.setattr(two_roles, "PENDING_MAX", 3)
    for number in range(5):
        one.query(query(number), 0, 200.0)
        one.expire(200.0)
    assert (one.pending, one.without_pair) == (3, 3)
