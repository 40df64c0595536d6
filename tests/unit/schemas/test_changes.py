"""Records of the change feed: their causes, their schema, and what is not one."""

from __future__ import annotations

import typing

import orjson
import pytest

from readstates.schemas import changes, events
from readstates.schemas.changes import CAUSES, cause_of, decode_change, encode_cause
from readstates.schemas.wire import decode_update
from tests.support.json_schemas import validator
from tests.support.wire_forms import EVENTS, GOLDEN


@pytest.mark.parametrize("name", EVENTS)
def test_the_cause_is_the_type_on_the_wire(name: str) -> None:
    value = (GOLDEN / f"update.{name}.json").read_bytes()
    cause = encode_cause(cause_of(decode_update(value))).decode()
    assert cause == orjson.loads(value)["type"]


def test_every_type_of_event_has_a_cause() -> None:
    bits = {cause_of(event) for event in EVENTS.values()}
    assert len(bits) == len(CAUSES)
    assert {type(event) for event in EVENTS.values()} == set(typing.get_args(events.Update))
    assert encode_cause(sum(bits)) == ",".join(CAUSES).encode()


def test_the_bits_of_the_fast_decoder_are_those_of_its_events() -> None:
    assert cause_of(EVENTS["ack"]) == changes.ACK
    assert cause_of(EVENTS["mention"]) == changes.MENTION


@pytest.mark.parametrize("name", ["joined", "all_deleted"])
def test_golden_records_are_valid(name: str) -> None:
    value = orjson.loads((GOLDEN / f"change.{name}.json").read_bytes())
    validator("change.json").validate(value)
    del value["totals"]
    assert not validator("change.json").is_valid(value)


def test_the_parts_of_a_change() -> None:
    value = (GOLDEN / "change.all_deleted.json").read_bytes()
    headers = [(changes.HEADER_PART, b"2/5"), (changes.HEADER_CAUSE, None)]
    change = decode_change(value, headers)
    assert (change.part, change.causes) == ((2, 5), ())
    assert decode_change(value).part == (1, 1)


@pytest.mark.parametrize(
    "value", [None, b"", b"{}", b"[]", b"7", b'{"user_id": null}', b'{"user_id":"1","version":"x"}']
)
def test_what_is_not_a_change_is_a_value_error(value: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_change(value)
