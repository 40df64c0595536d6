"""The gates of a rollout: what must have held, and for how long, before a candidate's next share.

`ops/rollout.toml` has them: each is a PromQL expression with a bound and the time for which the
bound must have held. This module reads the file and judges what Prometheus answered; it asks
nobody.

J1: a gate holds only if every sample of its time is within the bound. A gap of more than GAP_STEPS
    steps, no answer, several series, or a value that is no number is no sign of anything good.
J2: a gate is broken only if there is a figure now, and it is out of the bound. Without a figure,
    the gate neither holds nor is broken.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from readstates.schemas.rollout import SHARE_MAX

GAP_STEPS = 3
FIELDS = {"name", "means", "expr", "at_least", "at_most", "hold_s", "shares", "goal", "accepts"}

Sample = tuple[float, float]  # seconds since the epoch, value


class GatesError(ValueError):
    """The file is not what it must be; the text says where."""


class Gate(NamedTuple):
    """One gate. Exactly one of the bounds is given; `shares`: of the phases that it guards.

    `goal`: the phase has yet to reach the bound, so a figure outside of it is no fault. `accepts`:
    the figure counts differences, and those that a person has accepted are allowed on top of
    `at_most`; `accepted` is their number.
    """

    name: str
    means: str
    expr: str
    at_least: float | None
    at_most: float | None
    hold_s: float
    shares: tuple[int, ...]
    goal: bool = False
    accepts: bool = False
    accepted: int = 0

    def is_within(self, value: float) -> bool:
        """False for a value that is no number, too: nothing compares with it."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most + self.accepted

    @property
    def bound(self) -> str:
        """What the gate wants, in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        more = f" above the {self.accepted} that are accepted" if self.accepted else ""
        return f"at most {self.at_most:g}{more}"


class Plan(NamedTuple):
    """The shares of the phases, the first of which is 0, how long each lasts, and the gates."""

    shares: tuple[int, ...]
    phase_s: tuple[float, ...]
    gates: tuple[Gate, ...]

    def of_phase(self, share: int) -> list[Gate]:
        """The gates that must hold before the phase with this share ends."""
        return [gate for gate in self.gates if share in gate.shares]

    def next_share(self, share: int) -> int | None:
        """The share of the next phase; None after the last."""
        return min((each for each in self.shares if each > share), default=None)

    def phase_of(self, share: int) -> int:
        """The phase, by its share, of a share that may be between two phases."""
        return max(each for each in self.shares if each <= share)


class Verdict(NamedTuple):
    """A gate's answer. `value`: the figure now; None without one. `since_s`: since when it has been
    within the bound, in seconds since 1970; None if it is not within it now.
    """

    gate: Gate
    value: float | None
    since_s: float | None
    holds: bool

    @property
    def is_broken(self) -> bool:
        """True if the figure now is out of the bound (J2)."""
        is_figure = self.value is not None and not math.isnan(self.value)
        return is_figure and self.since_s is None


def judge(gate: Gate, samples: Sequence[Sample], now_s: float, step_s: float) -> Verdict:
    """Judge samples taken every `step_s`, the oldest first, up to `now_s` (J1)."""
    since_s: float | None = None
    before_s: float | None = None
    for at_s, value in samples:
        if before_s is not None and at_s - before_s > GAP_STEPS * step_s:
            since_s = None
        if not gate.is_within(value):
            since_s = None
        elif since_s is None:
            since_s = at_s
        before_s = at_s
    if before_s is None or now_s - before_s > GAP_STEPS * step_s:
        return Verdict(gate, None, None, False)
    holds = since_s is not None and now_s - since_s >= gate.hold_s - step_s
    return Verdict(gate, samples[-1][1], since_s, holds)


def read_plan(text: str) -> Plan:
    """The plan in a TOML file. Raises GatesError."""
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise GatesError(f"not TOML: {exc}") from None
    phases = body.get("phases", [])
    if set(body) - {"phases", "gates"} or not isinstance(phases, list) or not phases:
        raise GatesError("expected [[phases]] and [[gates]]")
    shares, times = [], []
    for number, phase in enumerate(phases, 1):
        where = f"phase {number}"
        shares.append(_share(phase.get("share"), where))
        times.append(_number(phase.get("hours"), f"{where}: hours") * 3600)
    if shares[0] != 0 or shares != sorted(set(shares)):
        raise GatesError("phases: the first share must be 0, and each must be above the one before")
    gates = tuple(_gate(one, number, shares) for number, one in enumerate(body.get("gates", []), 1))
    if len({gate.name for gate in gates}) < len(gates):
        raise GatesError("gates: two have the same name")
    return Plan(tuple(shares), tuple(times), gates)


def _gate(body: dict[str, Any], number: int, shares: list[int]) -> Gate:
    where = f"gate {body.get('name', number)}"
    if set(body) - FIELDS:
        raise GatesError(f"{where}: unknown fields {sorted(set(body) - FIELDS)}")
    for name in ("name", "means", "expr"):
        if not isinstance(body.get(name), str) or not body[name].strip():
            raise GatesError(f"{where}: {name} must be a text")
    bounds = [name for name in ("at_least", "at_most") if name in body]
    if len(bounds) != 1:
        raise GatesError(f"{where}: give at_least or at_most")
    bound = _number(body[bounds[0]], f"{where}: {bounds[0]}")
    for name in ("goal", "accepts"):
        if type(body.get(name, False)) is not bool:
            raise GatesError(f"{where}: {name} must be true or false")
    if body.get("accepts") and bounds != ["at_most"]:
        raise GatesError(f"{where}: a gate that accepts differences needs at_most")
    of_phases = tuple(_share(each, where) for each in body.get("shares", shares))
    if not set(of_phases) <= set(shares):
        raise GatesError(f"{where}: no phase has one of the shares {list(of_phases)}")
    return Gate(
        body["name"],
        body["means"],
        body["expr"].strip(),
        bound if bounds == ["at_least"] else None,
        bound if bounds == ["at_most"] else None,
        _number(body.get("hold_s", 0), f"{where}: hold_s"),
        of_phases,
        body.get("goal", False),
        body.get("accepts", False),
    )


def _share(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value <= SHARE_MAX:
        raise GatesError(f"{where}: a share is an integer 0 … {SHARE_MAX}, not {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise GatesError(f"{where}: expected a number from 0, got {value!r}")
    return float(value)
