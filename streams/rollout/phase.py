"""Judges the running phase of a candidate: its gates, and the time that it must last.

In a gate's expression, `$run` is the time since the candidate was started, `$day` the same but at
most a day, and `$phase` the time since it got its share: PromQL durations of at least a minute.
"""

from __future__ import annotations

from readstates.schemas.rollout import Candidate

from ..errors import PrometheusError
from .gates import GAP_STEPS, Gate, Plan, Verdict, judge
from .prometheus import Prometheus

STEP_S = 15.0
STEPS_MAX = 10_000  # Prometheus refuses more than 11,000 samples of a series
WINDOW_MIN_S, DAY_S = 60, 86_400


def judged(plan: Plan, candidate: Candidate, prometheus: Prometheus, now_s: float) -> list[Verdict]:
    """The time of the phase, and all of its gates, over the time for which each must have held.

    `now_s`: seconds since 1970. Raises PrometheusError. One request per gate.
    """
    found = [_lasted(plan, candidate, now_s)]
    for gate in gates_of(plan, candidate):
        step_s = max(STEP_S, gate.hold_s / STEPS_MAX)
        start_s = now_s - gate.hold_s - step_s
        expr = filled(gate.expr, candidate, now_s)
        samples = prometheus.samples(expr, start_s, now_s, step_s)
        found.append(judge(gate, samples, now_s, step_s))
    return found


def judged_now(
    plan: Plan, candidate: Candidate, prometheus: Prometheus, now_s: float
) -> list[tuple[Verdict, str]]:
    """The figure of each gate now, and why there is none. The gates that are goals are left out."""
    found: list[tuple[Verdict, str]] = []
    for gate in gates_of(plan, candidate):
        if gate.goal:
            continue
        why = "Prometheus has no figure"
        expr = filled(gate.expr, candidate, now_s)
        try:
            samples = prometheus.samples(expr, now_s - GAP_STEPS * STEP_S, now_s, STEP_S)
        except PrometheusError as exc:
            samples, why = [], str(exc)
        found.append((judge(gate, samples, now_s, STEP_S), why))
    return found


def gates_of(plan: Plan, candidate: Candidate) -> list[Gate]:
    """The gates of the running phase, with the differences that are accepted."""
    return [
        gate._replace(accepted=candidate.differences) if gate.accepts else gate
        for gate in plan.of_phase(plan.phase_of(candidate.share))
    ]


def filled(expr: str, candidate: Candidate, now_s: float) -> str:
    """The expression with the durations of the run and of the phase."""
    run_s, phase_s = (
        max(WINDOW_MIN_S, int(now_s - since_ms / 1000))
        for since_ms in (candidate.started_ms, candidate.since_ms)
    )
    for name, lasted_s in (("$run", run_s), ("$day", min(run_s, DAY_S)), ("$phase", phase_s)):
        expr = expr.replace(name, f"{lasted_s}s")
    return expr


def _lasted(plan: Plan, candidate: Candidate, now_s: float) -> Verdict:
    """The time of the phase, as a gate."""
    hours = plan.phase_s[plan.shares.index(plan.phase_of(candidate.share))] / 3600
    gate = Gate("hours", "hours with this share", "", hours, None, 0.0, plan.shares, goal=True)
    if not candidate.since_ms:  # an earlier version wrote the record
        return Verdict(gate, None, None, False)
    value = max(0.0, now_s - candidate.since_ms / 1000) / 3600
    reached_s = candidate.since_ms / 1000 + hours * 3600
    is_reached = gate.is_within(value)
    return Verdict(gate, value, reached_s if is_reached else None, is_reached)
