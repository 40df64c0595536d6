"""What `readstates get` prints, for people and as JSON."""

from __future__ import annotations

import click
import orjson
import pytest

from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer, Reply, Totals, decode_reply, encode_reply
from readstates.streams.commands.get import Place, as_object, get, mentioned_in, show

ROWS: list[Row] = [
    (0, 2**60, 30, 0, 0, 6, 7, 8, 9, b""),
    (2, 2**62, 30, 2**61, 1, 6, 7, 8, 11, b""),
]
ANSWERS = {
    "plain": (Answer(12, True, ROWS), False),
    "mentions": (Answer(12, False, ROWS), True),
    "totals": (Answer(12, True, [], Totals(3, 2, 5)), False),
    "page": (Answer(12, True, ROWS, Totals(3, 2, 5), (2, 2**62)), True),
}


def reply_of(name: str) -> tuple[Reply, bytes]:
    body = encode_reply(7, *ANSWERS[name])
    reply = decode_reply(body)
    assert isinstance(reply, Reply)
    return reply, body


@pytest.mark.parametrize("name", ANSWERS)
def test_json_is_what_the_wire_has(name: str) -> None:
    reply, body = reply_of(name)
    assert as_object(reply) == orjson.loads(body)


def test_people_see_mentions_totals_and_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    show(reply_of("page")[0])
    first, sums, head, nothing, one, named, more = capsys.readouterr().out.splitlines()
    assert first == "user 7, version 12, 2 read states"
    assert sums == "in all: 3 read states, 2 with mentions, 5 mentions"
    assert head.split() == [
        *("type", "channel", "last", "message", "mentions", "last", "mention"),
        *("pins", "seen", "(ms)"),
    ]
    assert nothing.split() == ["0", str(2**60), "30", "0", "0", "6"]
    assert one.split() == ["2", str(2**62), "30", "1", str(2**61), "6"]
    assert named == f"     mentioned in {2**61}"
    assert more == f"more follow: --after 2:{2**62}"


def test_mentions_that_are_not_asked_for_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(reply_of("plain")[0])
    assert "mentioned in" not in capsys.readouterr().out


def test_mentions_in_words() -> None:
    assert mentioned_in(2, (3, 4)) == "3, 4"
    assert mentioned_in(5, (3, 4)) == "3, 4 and 3 that are only counted"
    assert mentioned_in(2, ()) == "2 that are only counted"


def test_a_place_is_read_as_it_is_printed() -> None:
    context = click.Context(get)
    assert Place().convert(f"2:{2**62}", None, context) == (2, 2**62)
    for wrong in ("7", "0:", ":7", "0:-1", "a:b", "0:7:8", "٣:1"):
        with pytest.raises(click.BadParameter, match="expected TYPE:CHANNEL"):
            Place().convert(wrong, None, context)
