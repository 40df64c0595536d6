"""`rollout gates` against a server that answers as Prometheus does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from readstates.streams.commands.rollout import rollout
from tests.support.prometheus import Asked, Series, steady

PLAN = """
[[phases]]
share = 0
hours = 1
[[phases]]
share = 100
hours = 1
[[gates]]
name = "age"
means = "age, candidate / live"
expr = "age_ratio"
at_most = 1.1
hold_s = 600
[[gates]]
name = "pairs"
means = "pairs"
expr = "pairs_total"
at_least = 5
shares = [0]
"""


def gates(folder: Path, url: str, *arguments: str) -> Result:
    plan = folder / "plan.toml"
    plan.write_text(PLAN, "utf-8")
    argv = ["gates", str(plan), "--prometheus", url, *arguments]
    return CliRunner().invoke(rollout, argv)


def test_all_gates_hold(asked: Asked, tmp_path: Path) -> None:
    asked.series = {"age_ratio": steady("1.02"), "pairs_total": steady("7")}
    done = gates(tmp_path, asked.url)
    assert done.exit_code == 0, done.output
    age, pairs = done.output.splitlines()
    assert age.startswith("holds  age: age, candidate / live: 1.02, wants at most 1.1, for 6")
    assert "pairs: pairs: 7, wants at least 5" in pairs


@pytest.mark.parametrize(
    "answer",
    [
        steady("1.2"),
        steady("NaN"),
        lambda _start, _end, _step: [],
        lambda _start, end, _step: [{"metric": {}, "values": [[end, "1"]]}],
    ],
    ids=["above", "NaN", "nothing", "only now"],
)
def test_a_gate_that_fails_is_named(
    asked: Asked, tmp_path: Path, answer: Callable[[float, float, float], Series]
) -> None:
    asked.series = {"age_ratio": answer, "pairs_total": steady("7")}
    done = gates(tmp_path, asked.url, "--json")
    assert done.exit_code == 1
    assert {one["name"]: one["holds"] for one in json.loads(done.output)} == {
        "age": False,
        "pairs": True,
    }


def test_the_share_says_which_gates_count(asked: Asked, tmp_path: Path) -> None:
    asked.series = {"age_ratio": steady("1"), "pairs_total": steady("0")}
    assert gates(tmp_path, asked.url).exit_code == 1
    done = gates(tmp_path, asked.url, "--share", "150")
    assert (done.exit_code, "pairs" in done.output) == (0, False)


def test_two_series_are_no_figure(asked: Asked, tmp_path: Path) -> None:
    asked.series = {"age_ratio": lambda *times: steady("1")(*times) * 2}
    done = gates(tmp_path, asked.url)
    assert (done.exit_code, "2 series instead of one" in done.output) == (1, True)


def test_a_refusal_and_no_server(asked: Asked, tmp_path: Path) -> None:
    done = gates(tmp_path, asked.url)
    assert (done.exit_code, "refuses 'age_ratio'" in done.output) == (1, True)
    done = gates(tmp_path, "http://127.0.0.1:1")
    assert (done.exit_code, "gave no answer to 'age_ratio'" in done.output) == (1, True)


def test_a_held_time_is_counted_to_now(asked: Asked, tmp_path: Path) -> None:
    """A break in the middle: the bound has held since then, and not for long enough."""

    def broken(start: float, end: float, step: float) -> Series:
        (series,) = steady("1")(start, end, step)
        series["values"][10][1] = "5"
        return [series]

    asked.series = {"age_ratio": broken, "pairs_total": steady("7")}
    (age, _) = json.loads(gates(tmp_path, asked.url, "--json").output)
    assert not age["holds"]
    assert 0 < time.time() - age["since_s"] < 600
