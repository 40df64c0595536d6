"""`readstates rollout gates`: what each gate of a phase wants, what is there, and since when."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import click

from ..rollout.gates import GatesError, Plan, Verdict, judge, read_plan
from .options import errors_as_messages

STEP_S = 15.0
STEPS_MAX = 10_000  # Prometheus refuses more than 11,000 samples of a series


@click.command("gates", short_help="Check whether the candidate's share may grow.")
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--share", type=click.IntRange(0, 10_000), default=0, help="The present share.")
@click.option(
    "--prometheus",
    "url",
    default="http://127.0.0.1:9090",
    show_default=True,
    help="Address of Prometheus.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def gates(plan: Path, share: int, url: str, as_json: bool) -> None:
    """Check whether a candidate may go from its present share (--share) to the next larger one.

    PLAN is a file such as ops/rollout.toml. It defines gates: Prometheus expressions, each with a
    limit and a period. The exit status is 0 only if every gate has been within its limit for its
    whole period.
    """
    with errors_as_messages():
        verdicts = judged(_read(plan), share, url, time.time())
    if as_json:
        click.echo(json.dumps([_as_object(verdict) for verdict in verdicts]))
    else:
        for verdict in verdicts:
            click.echo(line_of(verdict, time.time()))
    if not all(verdict.holds for verdict in verdicts):
        raise click.exceptions.Exit(1)


def _read(file: Path) -> Plan:
    try:
        return read_plan(file.read_text("utf-8"))
    except (GatesError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{file}: {exc}") from exc


def judged(plan: Plan, share: int, url: str, now_s: float) -> list[Verdict]:
    """All gates of the phase with this share. Raises PrometheusError."""
    from ..rollout.prometheus import Prometheus

    prometheus, verdicts = Prometheus(url), []
    for gate in plan.of_phase(plan.phase_of(share)):
        step_s = max(STEP_S, gate.hold_s / STEPS_MAX)
        start_s = now_s - gate.hold_s - step_s
        samples = prometheus.samples(gate.expr, start_s, now_s, step_s)
        verdicts.append(judge(gate, samples, now_s, step_s))
    return verdicts


def line_of(verdict: Verdict, now_s: float) -> str:
    """A gate for people."""
    gate = verdict.gate
    value = "no single figure" if verdict.value is None else f"{verdict.value:g}"
    since = "not now"
    if verdict.since_s is not None:
        since = f"for {max(0.0, now_s - verdict.since_s):.0f} s of {gate.hold_s:.0f} s"
    sign = "holds" if verdict.holds else "FAILS"
    return f"{sign}  {gate.name}: {gate.means}: {value}, wants {gate.bound}, {since}"


def _as_object(verdict: Verdict) -> dict[str, Any]:
    gate, value = verdict.gate, verdict.value
    return {
        "name": gate.name,
        "holds": verdict.holds,
        "value": value if value is not None and math.isfinite(value) else None,
        "since_s": verdict.since_s,
        "at_least": gate.at_least,
        "at_most": gate.at_most,
        "hold_s": gate.hold_s,
    }
