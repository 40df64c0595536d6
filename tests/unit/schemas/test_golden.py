"""The bytes on the wire: every form decodes from its golden file and encodes to it.

A change here is a change for other programs. `python -m pytest` never writes these files.
"""

from __future__ import annotations

import orjson
import pytest

from readstates.schemas import changes, replies, rollout, wire
from readstates.schemas.queries import decode_query, encode_query
from readstates.schemas.read_state import ReadState, mentions_of
from readstates.schemas.replies import Answer, Totals
from tests.support.wire_forms import EVENTS, GOLDEN, MARKED_ROWS, QUERIES, ROWS

VERSION = (8 << 48) | 9


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", EVENTS)
def test_event(name: str) -> None:
    assert wire.encode_update(EVENTS[name]) == golden(f"update.{name}")
    assert wire.decode_update(golden(f"update.{name}")) == EVENTS[name]


@pytest.mark.parametrize("name", QUERIES)
def test_query(name: str) -> None:
    assert encode_query(QUERIES[name]) == golden(f"query.{name}")
    assert decode_query(golden(f"query.{name}")) == QUERIES[name]


REPLIES = {
    "full": (Answer(VERSION, True, ROWS), False),
    "delta_empty": (Answer(VERSION, False, []), False),
    "page": (Answer(VERSION, True, MARKED_ROWS, Totals(5, 3, 2**32 + 7), (2, 2**63 - 1)), True),
    "totals": (Answer(VERSION, True, [], Totals(0, 0, 0)), False),
}


@pytest.mark.parametrize("name", REPLIES)
def test_reply(name: str) -> None:
    answer, mentions = REPLIES[name]
    body = replies.encode_reply(101, answer, mentions)
    assert body == golden(f"reply.{name}")
    states = [
        ReadState(*row[:9], tuple(mentions_of(row)) if mentions else None) for row in answer.rows
    ]
    expected = replies.Reply(101, VERSION, answer.full, states, answer.totals, answer.next)
    assert replies.decode_reply(body) == expected


ERRORS = {
    "error": replies.ErrorReply(101, replies.STORE_UNAVAILABLE, "the database does not answer"),
    "error_limit": replies.ErrorReply(101, replies.REPLY_TOO_LARGE, "too many", 3_400),
    "error_no_user": replies.ErrorReply(None, replies.INVALID_QUERY, 'user_id: "é\n" …'),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_reply(name: str) -> None:
    assert replies.encode_error(*ERRORS[name]) == golden(f"reply.{name}")
    assert replies.decode_reply(golden(f"reply.{name}")) == ERRORS[name]


def test_faust_reply() -> None:
    body = replies.encode_reply(101, Answer(VERSION, True, ROWS), False)
    wrapped = replies.wrap_faust(body, b"101", b"0b1c")
    assert wrapped == golden("reply.faust")
    assert orjson.loads(wrapped)["value"] == orjson.loads(body)


CHANGES = {
    "joined": changes.Change(
        101,
        VERSION,
        [ReadState(*row[:9], tuple(mentions_of(row))) for row in MARKED_ROWS],
        [(0, 203), (255, 2**63 - 1)],
        False,
        Totals(5, 3, 2**32 + 7),
        ("ack", "mention", "delete"),
    ),
    "all_deleted": changes.Change(
        101, VERSION, [], [], True, Totals(0, 0, 0), ("delete_user",), (1, 1)
    ),
}
CAUSES = {"joined": (0, 1, 7), "all_deleted": (8,)}  # places in changes.CAUSES


@pytest.mark.parametrize("name", CHANGES)
def test_change(name: str) -> None:
    change = CHANGES[name]
    rows = MARKED_ROWS if change.read_states else []
    value = changes.encode_change(
        101, VERSION, rows, change.deleted, change.all_deleted, change.totals
    )
    assert value == golden(f"change.{name}")
    cause = changes.encode_cause(sum(1 << place for place in CAUSES[name]))
    assert cause == ",".join(change.causes).encode()
    assert changes.decode_change(value, [(changes.HEADER_CAUSE, cause)]) == change


ROLLOUTS: dict[str, tuple[bytes, bytes]] = {
    "candidate": rollout.encode_candidate(
        rollout.Candidate(
            "new",
            2500,
            True,
            "0123456789abcdef",
            1_800_000_000_000,
            1_799_000_000_000,
            0,
            (rollout.Accepted("pins are kept now", 3, 1_799_900_000_000),),
        )
    ),
    "beat": rollout.encode_beat(rollout.Beat("new", "host-1", 12, frozenset({3, 0}))),
}


@pytest.mark.parametrize("name", ROLLOUTS)
def test_record_of_a_rollout(name: str) -> None:
    key, value = ROLLOUTS[name]
    assert value == golden(f"rollout.{name}")
    assert key == {"candidate": b"new", "beat": b"new/host-1"}[name]


def test_no_golden_file_is_without_a_test() -> None:
    held = {f"update.{name}" for name in EVENTS} | {f"query.{name}" for name in QUERIES}
    held |= {f"reply.{name}" for name in (*REPLIES, *ERRORS, "faust")}
    held |= {f"change.{name}" for name in CHANGES} | {f"rollout.{name}" for name in ROLLOUTS}
    assert {path.stem for path in GOLDEN.iterdir()} == held
