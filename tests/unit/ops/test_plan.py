"""`readstates plan`: its sums go the right way, and CAPACITY.md shows what it prints."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from readstates.cache.layout import slots_for, table_size_bytes
from readstates.ops.plan import Load, figures, plan, record_sizes
from readstates.streams.cli import main
from tests.support.promql import OPS

LOAD = Load(1e6, 100_000, 20, 10_000, 1_000, 30, 16)
FIGURES = {name: float(entry["value"]) for name, entry in figures()[1].items()}


def values(load: Load, **changed: float) -> dict[str, float]:
    """What the plan says, as numbers in its units."""
    found = {}
    for line in plan(load, FIGURES | changed):
        number, _, unit = line.value.replace(",", "").partition(" ")
        found[line.what] = float(number.removesuffix("/s")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(
            unit[:1], 1
        )
    return found


@pytest.mark.parametrize(
    ("change", "grows"),
    [
        ({"updates_per_s": 400_000}, ["workers", "partitions", "Kafka in", "Cassandra rows"]),
        ({"queries_per_s": 100_000}, ["workers", "Kafka in", "Cassandra loads"]),
        (
            {"online": 1_000_000},
            ["size of a table", "CACHE_STATES", "worker memory", "Cassandra rows"],
        ),
        ({"read_states_per_user": 40}, ["size of a table", "Cassandra disk", "Kafka in"]),
        ({"users": 1e7}, ["Cassandra disk"]),
        ({"flush_delay_s": 60}, ["changes per row", "replay"]),
        ({"changes": True}, ["Kafka in", "Kafka copied"]),
    ],
)
def test_more_needs_more(change: dict[str, Any], grows: list[str]) -> None:
    before, after = values(LOAD), values(replace(LOAD, **change))
    assert [what for what in grows if after[what] <= before[what]] == []


def test_the_change_feed_takes_processor_time() -> None:
    busy = replace(LOAD, updates_per_s=400_000)
    assert values(replace(busy, changes=True))["workers"] > values(busy)["workers"]
    assert "changes told" not in values(busy)


def test_memory_may_decide() -> None:
    assert values(replace(LOAD, online=2e6, worker_memory_gb=1))["workers"] == 8


def test_without_a_delay_nothing_is_coalesced() -> None:
    found = values(replace(LOAD, flush_delay_s=0))
    assert found["changes per row"] == 1
    assert found["Cassandra rows"] == LOAD.updates_per_s


@pytest.mark.parametrize("each", [1, 4, 8, 50])
def test_all_who_are_online_fit_the_tables(each: float) -> None:
    """A user takes a slot as a read state does."""
    found = values(replace(LOAD, read_states_per_user=each), skew=1)
    slots = slots_for(int(found["CACHE_STATES"])) * found["partitions"]
    assert LOAD.online * (each + 1) <= slots
    size = table_size_bytes(slots_for(int(found["CACHE_STATES"])))
    assert found["size of a table"] == pytest.approx(size, rel=0.01)


def test_bytes_a_read_state() -> None:
    """What was measured, at 8 read states a user."""
    states = 2_000_000
    assert table_size_bytes(slots_for(states)) / states == pytest.approx(78.75, abs=0.01)


def test_records_grow_with_the_reply_only() -> None:
    few, many = record_sizes(1), record_sizes(10)
    assert (*few[:2], few[3]) == (*many[:2], many[3])
    assert many[2] > 5 * few[2]


def test_a_figure_can_be_replaced() -> None:
    arguments = shlex.split(
        "plan --users 1e6 --online 1e5 --read-states-per-user 20 --updates-per-s 1e4 "
        "--queries-per-s 1e3"
    )
    run = CliRunner().invoke
    changed = run(main, [*arguments, "--set", "copies=1"])
    assert "copies = 1.0 copies: given with --set" in changed.output
    for wrong in ("copies=0", "copies=x", "coppies=1"):
        refused = run(main, [*arguments, "--set", wrong])
        assert refused.exit_code == 2
        assert wrong.split("=")[0] in refused.output
    assert run(main, [*arguments, "--worker-memory-gb", "0.1"]).exit_code == 2


def test_capacity_shows_what_the_plan_prints() -> None:
    text = (OPS / "CAPACITY.md").read_text("utf-8")
    shown = re.findall(r"```\n\$ readstates (.+?)\n(.+?)```", text, re.DOTALL)
    assert shown
    for command, output in shown:
        done = CliRunner().invoke(main, shlex.split(command.replace("\\\n", " ")))
        assert done.exit_code == 0, done.output
        assert done.output.startswith(output)
