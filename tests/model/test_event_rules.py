"""The rules of the event tables hold for the oracle, which everything else is compared with."""

from __future__ import annotations

import json

import pytest

from readstates.ops.proof.oracle import Oracle
from readstates.schemas.read_state import mentions_of
from tests.support.event_rules import CHANNEL, RULES, WITHOUT_CHANNEL
from tests.support.rows import COLUMNS

USER = 7


@pytest.mark.parametrize("name", RULES)
def test_rule(name: str) -> None:
    oracle = Oracle()
    for offset, (event, expected) in enumerate(RULES[name]):
        where = {} if event["type"] in WITHOUT_CHANNEL else {"channel_id": str(CHANNEL)}
        value = json.dumps({**event, **where, "user_id": USER}).encode()
        oracle.apply(b"%d" % USER, value, offset)
        assert oracle.bad == 0, event
        if expected is None:
            assert oracle.shown(USER) == [], event
            continue
        (row,) = oracle.shown(USER)
        fields = dict(zip(COLUMNS[2:-1], row[2:-2], strict=True))
        whole = {**dict.fromkeys(fields, 0), "mentions": [], **expected}
        assert {**fields, "mentions": [str(each) for each in mentions_of(row)]} == whole, event
