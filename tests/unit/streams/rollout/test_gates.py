"""A gate holds only if every sample of its time is within its bound."""

from __future__ import annotations

import math

import pytest

from readstates.streams.rollout.gates import Gate, GatesError, Plan, judge, read_plan
from tests.support.promql import OPS

STEP = 15.0
NOW = 10_000.0


def gate(**more: float) -> Gate:
    bounds = {"at_least": None, "at_most": 1.1, **more}
    return Gate("age", "x", "expr", bounds["at_least"], bounds["at_most"], 60.0, (0,))


def samples(*values: float | None, end: float = NOW) -> list[tuple[float, float]]:
    """One every STEP, the last at `end`; None: there is none."""
    times = [end - STEP * (len(values) - 1 - number) for number in range(len(values))]
    return [(at, value) for at, value in zip(times, values, strict=True) if value is not None]


@pytest.mark.parametrize(
    ("values", "since_steps", "holds"),
    [
        ([1, 1, 1, 1, 1], 4, True),
        ([1, 1, 1, 1], 3, True),  # the step before the first sample is not known
        ([1, 1, 1], 2, False),
        ([9, 1, 1, 1, 1, 1], 4, True),
        ([1, 1, 9, 1, 1, 1], 2, False),
        ([1, 1, 1, 1, 1.1001], None, False),
        ([1, 1, 1, 1, math.nan], None, False),
        ([1, 1, math.nan, 1, 1], 1, False),
        ([1, 1, None, None, 1, 1], 5, True),  # two scrapes failed
        ([1, 1, 1, 1, 1, None, None, None, 1, 1], 1, False),
        ([1, 1, 1, 1, 1, None, None, None, None], None, False),
        ([math.inf], None, False),
        ([], None, False),
    ],
)
def test_every_sample_of_its_time(
    values: list[float | None], since_steps: int | None, holds: bool
) -> None:
    found = judge(gate(), samples(*values), NOW, STEP)
    assert found.holds == holds
    since = None if since_steps is None else NOW - since_steps * STEP
    assert found.since_s == since


def test_a_bound_from_below() -> None:
    pairs = gate(at_least=1000.0, at_most=None)  # type: ignore[arg-type]
    assert not judge(pairs, samples(*[999.0] * 9), NOW, STEP).holds
    assert judge(pairs, samples(*[1000.0] * 9), NOW, STEP).holds
    assert (gate().bound, pairs.bound) == ("at most 1.1", "at least 1000")


@pytest.mark.parametrize(
    ("values", "is_broken"),
    [([1, 1.2], True), ([1.2, 1], False), ([math.inf], True), ([math.nan], False), ([], False)],
)
def test_only_a_figure_breaks_a_gate(values: list[float | None], is_broken: bool) -> None:
    assert judge(gate(), samples(*values), NOW, STEP).is_broken == is_broken
    assert not judge(gate(), samples(*values, end=NOW - 1000), NOW, STEP).is_broken, "it is old"


def test_accepted_differences_are_allowed_on_top() -> None:
    one = gate()._replace(at_most=0.5, hold_s=0.0, accepts=True, accepted=3)
    assert judge(one, samples(3.4), NOW, STEP).holds
    assert judge(one, samples(3.6), NOW, STEP).is_broken
    assert one.bound == "at most 0.5 above the 3 that are accepted"


def test_a_gate_without_a_time_holds_at_once() -> None:
    one = gate()._replace(hold_s=0.0)
    assert judge(one, samples(1.0), NOW, STEP).holds
    assert not judge(one, samples(1.2), NOW, STEP).holds
    assert not judge(one, samples(1.0, end=NOW - 1000), NOW, STEP).holds


def plan() -> Plan:
    return read_plan((OPS / "rollout.toml").read_text("utf-8"))


def test_the_plan_of_this_repository() -> None:
    found = plan()
    assert found.shares == (0, 100, 1000, 5000, 10_000)
    assert [found.next_share(share) for share in (0, 100, 250, 10_000)] == [100, 1000, 1000, None]
    assert [found.phase_of(share) for share in (0, 99, 100, 10_000)] == [0, 0, 100, 10_000]
    names = {gate.name for gate in found.of_phase(0)}
    assert names - {gate.name for gate in found.of_phase(100)} == {"pairs"}
    by_name = {gate.name: gate for gate in found.gates}
    assert {gate.name for gate in found.gates if gate.goal} == {"pairs", "peak", "differences"}
    assert {gate.name for gate in found.gates if gate.accepts} == {"differences"}
    assert by_name["pairs"].at_least == 1_000_000
    assert by_name["agreement"].at_least == 0.999999
    assert by_name["age-p99"].at_most == by_name["age-p99.9"].at_most == 1.1


GOOD = """
[[phases]]
share = 0
hours = 1
[[gates]]
name = "a"
means = "b"
expr = "c"
at_most = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("share = 0", "share = 5", "first share must be 0"),
        ("share = 0", 'share = "0"', "a share is an integer"),
        ("hours = 1", "", "hours: expected a number"),
        ("hours = 1", "hours = -1", "hours: expected a number"),
        ("at_most = 1", "", "give at_least or at_most"),
        ("at_most = 1", "at_most = 1\nat_least = 0", "give at_least or at_most"),
        ("at_most = 1", "at_most = inf", "at_most: expected a number"),
        ("at_most = 1", "at_most = true", "at_most: expected a number"),
        ("at_most = 1", "at_most = 1\nshares = [7]", "no phase has one of the shares"),
        ("at_most = 1", "at_most = 1\nhold = 5", "unknown fields"),
        ("at_most = 1", "at_most = 1\ngoal = 1", "goal must be true or false"),
        ("at_most = 1", "at_least = 1\naccepts = true", "needs at_most"),
        ('expr = "c"', 'expr = " "', "expr must be a text"),
        ("[[phases]]", "[[other]]", "expected"),
        ("[[phases]]", "[phases", "not TOML"),
    ],
)
def test_a_wrong_plan_is_refused(old: str, new: str, error: str) -> None:
    assert read_plan(GOOD).gates[0].hold_s == 0
    with pytest.raises(GatesError, match=error):
        read_plan(GOOD.replace(old, new))
    with pytest.raises(GatesError, match="same name"):
        read_plan(GOOD + GOOD[GOOD.index("[[gates]]") :])
