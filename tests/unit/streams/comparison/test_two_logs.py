"""A recording and the log into which it was replayed: their versions become comparable."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest

from readstates.streams.comparison.compare import compare
from readstates.streams.comparison.findings import DIFFERENT, EQUAL
from readstates.streams.comparison.two_logs import StrangeVersionError, TwoLogs
from tests.support.two_replies import history, question, reply, said

SEEDS = 25
RECORDS = 50
PAIRS = 20
RECORDED_EPOCH, REPLAY_EPOCH = 9, 30
Body = dict[str, Any]


class Log:
    """The offsets of the same updates in one log, with other records between them."""

    def __init__(self, rand: random.Random, epoch: int) -> None:
        self.epoch = epoch
        self.offsets: list[int] = []
        offset = rand.randint(0, 50)
        for _ in range(RECORDS):
            offset += rand.choice([1, 1, 1, 3])
            self.offsets.append(offset)

    def version(self, count: int, later: int = 0) -> int:
        """Of the moment at which `count` updates were applied, and up to `later` other records."""
        if not count:
            return self.epoch << 48
        gap = self.offsets[count] - self.offsets[count - 1] - 1 if count < RECORDS else 5
        return (self.epoch << 48) | (self.offsets[count - 1] + 1 + min(later, gap))

    def body(self, body: Body, later: int) -> Body:
        """A reply of `tests.support.two_replies` with this log's versions."""
        made = copy.deepcopy(body)
        made["version"] = str(self.version(int(body["version"]) & 0xFFFF, later))
        for state in made["read_states"]:
            state["version"] = str(self.version(int(state["version"]) & 0xFFFF))
        return made


def delivered(logs: TwoLogs, recorded: Log, replayed: Log, count: int = RECORDS) -> None:
    for one, other in list(zip(recorded.offsets, replayed.offsets, strict=True))[:count]:
        logs.sent(1, one)
        logs.delivered(1, other)


def test_replies_of_two_logs_are_compared_as_those_of_one() -> None:
    results: Counter[str] = Counter()
    for seed in range(SEEDS):
        rand = random.Random(seed)
        moments, _ = history(rand, RECORDS)
        recorded, replayed = Log(rand, RECORDED_EPOCH), Log(rand, REPLAY_EPOCH)
        logs = TwoLogs(2)
        delivered(logs, recorded, replayed)
        for _ in range(PAIRS):
            one = rand.randrange(5, RECORDS)
            other = rand.choice([one, max(0, min(RECORDS, one + rand.randint(-4, 4)))])
            query = question(rand, moments[one].version)
            bodies = reply(rand, moments[one], query), reply(rand, moments[other], query)
            since = query.get("since_version")
            later = rand.randint(0, 2), rand.randint(0, 2)
            first = logs.recorded(1, recorded.body(bodies[0], later[0]))
            second = logs.replayed(1, replayed.body(bodies[1], later[1]))
            plain = compare(query, *(said(rand, body, query) for body in bodies))
            if since is not None:
                since = recorded.version(min(RECORDS, since & 0xFFFF))
                query = {**query, "since_version": logs.position(1, since)}
            found = compare(query, *(said(rand, body, query) for body in (first, second)))
            assert (found.result, found.reasons) == (plain.result, plain.reasons), (seed, first)
            results[found.result] += 1
            if second["read_states"] and one == other:
                second["read_states"][0]["flags"] += 1
                found = compare(query, *(said(rand, body, query) for body in (first, second)))
                assert found.result == DIFFERENT or first["full"] != second["full"]
                results["planted"] += 1
    assert results[EQUAL] > results["planted"] > 50


def test_a_since_version_gets_the_other_logs_number() -> None:
    logs = TwoLogs(2)
    rand = random.Random(1)
    recorded, replayed = Log(rand, RECORDED_EPOCH), Log(rand, REPLAY_EPOCH)
    delivered(logs, recorded, replayed, 10)
    assert logs.since(1, recorded.version(4), REPLAY_EPOCH) == (
        replayed.version(4),
        recorded.offsets[3] + 1,
    )
    assert logs.since(1, recorded.version(0), REPLAY_EPOCH) is None
    assert logs.since(0, recorded.version(4), REPLAY_EPOCH) is None, "of another partition"
    latest = logs.since(1, recorded.version(30), REPLAY_EPOCH)
    assert latest == (replayed.version(10), recorded.offsets[9] + 1), "what is delivered so far"


def test_a_reply_waits_until_its_updates_are_known() -> None:
    logs = TwoLogs(1)
    body = {"version": str((REPLAY_EPOCH << 48) | 6)}  # the update at offset 5 is the last it knows
    assert logs.has_delivered(0, body), "nothing is under way"
    assert not logs.has_sent(0, body)
    logs.sent(0, 2)
    assert not logs.has_delivered(0, body)
    logs.delivered(0, 4)
    logs.sent(0, 5)
    assert not logs.has_delivered(0, body)
    assert logs.has_sent(0, body)
    logs.sent(0, 6)
    logs.delivered(0, 5)
    assert logs.has_delivered(0, body)
    errors: list[Any] = [{"error": {}}, None]
    for error in errors:
        assert logs.has_delivered(0, error)
        assert logs.has_sent(0, error)


def test_an_update_that_is_not_in_the_recording_is_noticed() -> None:
    logs = TwoLogs(1)
    for recorded, replayed in ((10, 100), (20, 110)):
        logs.sent(0, recorded)
        logs.delivered(0, replayed)
    bits = REPLAY_EPOCH << 48

    def body(offset: int) -> Body:
        return {"version": str(bits | 120), "read_states": [{"version": str(bits | (offset + 1))}]}

    assert logs.replayed(0, body(110))["read_states"] == [{"version": "21"}]
    assert logs.replayed(0, body(50))["read_states"] == [{"version": "0"}], "from before it"
    for offset in (105, 115):
        with pytest.raises(StrangeVersionError):
            logs.replayed(0, body(offset))


def test_what_is_no_reply_stays_as_it_is() -> None:
    logs = TwoLogs(1)
    bodies: list[Any] = [None, 5, [], {"error": {}}, {"version": None}]
    for body in bodies:
        assert logs.replayed(0, body) == body
    odd = {"version": "9", "read_states": [5, {"version": "x"}, {}]}
    assert logs.replayed(0, odd) == {**odd, "version": "0"}
