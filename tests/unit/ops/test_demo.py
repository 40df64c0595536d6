"""The demo's parts that need no server: its traffic, its queries in turn, its report."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from readstates.ops.bench.asking import Asked
from readstates.ops.console import terminal
from readstates.ops.demo import machine, report
from readstates.ops.demo import stages as demo
from readstates.ops.demo.asking import ABSENT, ECHO, RESIDENT, SELECT, InTurn, Questions, errors_in
from readstates.ops.demo.machine import Busy, Machine
from readstates.ops.demo.stretches import Seen
from readstates.ops.proof.traffic import STORM_CROWD, Traffic

ABSENT_IDS = range(2 * 10**18, 2 * 10**18 + 3000)


class Recorder:
    """An asker that notes when it was asked what, and answers at once."""

    def __init__(self, name: str, log: list[str], failure: Exception | None = None) -> None:
        self.name, self.log, self.failure = name, log, failure
        self.asked: list[Any] = []

    def run(self, queries: Sequence[Any], per_second: float, seconds: float) -> Asked:
        self.log.append(self.name)
        if self.failure is not None:
            raise self.failure
        self.asked += queries
        return Asked(seconds=[0.001] * int(per_second * seconds))


def test_a_users_channels_are_the_same_in_any_process_and_order() -> None:
    one, other = Traffic(3, 100), Traffic(3, 100)
    list(one.updates(500))
    assert [one.channels_of(u) for u in one.user_ids] == [
        other.channels_of(u) for u in reversed(other.user_ids)
    ][::-1]


def test_the_filling_gives_each_user_all_channels_and_begins_with_the_absent() -> None:
    traffic = Traffic(3, 50, ABSENT_IDS[:20])
    events = [orjson.loads(record.value or b"") for record in traffic.fill(70)]
    users = [int(event["user_id"]) for event in events]
    assert users == [*ABSENT_IDS[:20], *reversed(traffic.user_ids)]
    for event in events:
        channels = [int(ack["channel_id"]) for ack in event["acks"]]
        assert channels == traffic.channels_of(int(event["user_id"]))


def test_a_storm_mentions_crowds_most_of_them_absent() -> None:
    traffic = Traffic(3, 5000, ABSENT_IDS)
    events = [orjson.loads(r.value or b"") for r in traffic.crowds(3 * STORM_CROWD)]
    assert {event["type"] for event in events} == {"mention"}
    messages = Counter(int(event["message_id"]) for event in events)
    assert list(messages.values()) == [STORM_CROWD] * 3
    absent = sum(int(event["user_id"]) in ABSENT_IDS for event in events)
    assert absent == 3 * STORM_CROWD * 8 // 10


def test_a_storm_without_absent_users_has_smaller_crowds() -> None:
    events = list(Traffic(3, 10).crowds(25))
    assert len(events) == 25


def test_kinds_are_asked_in_turn_each_going_on_where_it_was() -> None:
    log: list[str] = []
    askers = {name: Recorder(name, log) for name in ("a", "b")}
    questions = {name: Questions(one, list(range(5))) for name, one in askers.items()}
    for _ in range(2):
        seen = InTurn(questions, per_second=100, seconds=0.03).finish()
        assert {name: len(asked.seconds) for name, asked in seen.items()} == {"a": 3, "b": 3}
    assert log == ["a", "b"] * 2
    assert askers["a"].asked == [0, 1, 2, 3, 4, 0]


def test_what_ends_one_kind_is_raised() -> None:
    questions = {"a": Questions(Recorder("a", [], ValueError("broken")), [1])}
    with pytest.raises(ValueError, match="broken"):
        InTurn(questions, per_second=10, seconds=0.1).finish()


def test_the_busy_share_is_of_all_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ticks = iter([(1000, 2000), (1100, 2400)])  # of 400 ticks 100 were idle
    own = iter([50, 150])
    monkeypatch.setattr(machine, "_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine, "_ticks_of", lambda _pid: next(own))
    busy = Machine({"worker": 1}).busy()
    assert busy is not None
    assert busy.share == 0.75
    assert busy.own == {"worker": 0.25}
    assert str(busy) == "machine 75% busy"
    assert busy.shares() == "worker 25%, other programs 50%"


def test_a_system_without_proc_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ticks", lambda: None)
    assert Machine({}).busy() is None
    seen = Seen(1, 1.0, {RESIDENT: Asked(), ECHO: Asked()}, None)
    assert any("does not say" in line for line in report.burst(seen))


def test_the_ticks_of_this_very_process_are_counted() -> None:
    if not Path("/proc/stat").exists():  # macOS
        assert machine._ticks() is None
        return
    before = machine._ticks_of(os.getpid())
    total = 0
    for number in itertools.count():
        total += number
        if machine._ticks_of(os.getpid()) > before:
            break
    idle, everything = machine._ticks() or (0, 0)
    assert 0 < idle < everything
    assert machine._ticks_of(2**22 + 1) == 0, "no process has this number"


def test_the_steady_report_has_each_figure_and_its_ratio() -> None:
    def asked(*ms: float) -> Asked:
        return Asked(seconds=[one / 1000 for one in ms])

    seen = Seen(
        updates=100,
        seconds=2.0,
        asked={
            RESIDENT: asked(1.0, 2.0, 6.0),
            ECHO: asked(1.0, 1.0, 2.0),
            ABSENT: asked(3.0, 4.0, 5.0),
            SELECT: asked(2.0, 2.0, 10.0),
        },
        busy=Busy(0.5, {"worker": 0.1}),
    )
    lines = list(report.steady(seen, 50))
    assert not any("two thirds busy" in line for line in lines)
    crowded = replace(seen, busy=Busy(0.67, {}))
    assert any("two thirds busy" in line for line in report.steady(crowded, 50))
    table = {line[2:32].strip(): line[32:].split() for line in lines if line.startswith("  ")}
    assert table["query, user in the table"] == ["2.00", "6.00", "2.00", "×", "3.00", "×"]
    assert table["bare echo of the same size"] == ["1.00", "2.00"]
    assert table["query, user to be loaded"] == ["4.00", "5.00", "2.00", "×", "0.50", "×"]
    assert table["bare SELECT of the same user"] == ["2.00", "10.00"]


def test_a_report_fits_a_terminal() -> None:
    """No line of it is wrapped by the terminal that the picture of the demo's end is of."""
    processes = ("kafka", "cassandra", "worker", "producer", "client", "echo")
    seen = Seen(
        updates=200_000,
        seconds=10.0,
        asked={name: Asked(seconds=[12.34567]) for name in (RESIDENT, ECHO, ABSENT, SELECT)},
        busy=Busy(1.0, dict.fromkeys(processes, 0.12)),
        counts=dict.fromkeys(
            (report.HITS, report.MISSES, report.EVICTED, report.APPLIED, report.ROWS), 100_000.0
        ),
    )
    lines = [*report.steady(seen, 9_000), *report.burst(seen), *report.storm(seen)]
    assert [line for line in lines if len(line) > terminal.COLUMNS] == []


def test_only_a_few_queries_may_stay_without_a_right_answer() -> None:
    good = b'{"user_id":"1","version":"1","full":true,"read_states":[]}'
    bad = b'{"user_id":"1","error":{"code":"overloaded","message":""}}'

    def seen(replies: list[bytes], unanswered: int) -> Seen:
        asked = Asked(seconds=[0.1] * len(replies), bodies=replies, unanswered=unanswered)
        return Seen(1, 1.0, {RESIDENT: asked}, None)

    assert errors_in(seen([good, bad], 3).asked[RESIDENT]) == {"no reply": 3, "overloaded": 1}
    assert demo._unanswered([seen([good] * 99 + [bad], 0)]) == []
    (text,) = demo._unanswered([seen([good] * 98 + [bad], 1)])
    assert "2 were not answered" in text
    assert demo._unanswered([seen([good] * 98, 2)]) != []
