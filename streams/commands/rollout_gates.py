"""`readstates rollout gates`: what each gate of a phase wants, what is there, and since when."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from readstates.schemas.rollout import SHARE_MAX, Candidate

from ..rollout.gates import GatesError, Plan, Verdict, read_plan
from .options import errors_as_messages

PLAN = Path(__file__).parents[2] / "ops" / "rollout.toml"
PROMETHEUS = "http://127.0.0.1:9090"
HOURS = 168.0

with_plan = click.option(
    "--plan",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The phases and the gates.  [default: rollout.toml of this version]",
)


def with_gates(command: Callable[..., Any]) -> Any:
    """Add `--plan` and `--prometheus`, for a command that judges gates."""
    url = click.option(
        "--prometheus",
        "url",
        default=PROMETHEUS,
        show_default=True,
        metavar="URL",
        help="Address of Prometheus.",
    )
    return with_plan(url(command))


@click.command("gates", short_help="Check whether the candidate's share may grow.")
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--share", type=click.IntRange(0, SHARE_MAX), default=0, help="The present share.")
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=HOURS,
    show_default=True,
    help="How long ago the candidate was started and got this share.",
)
@click.option(
    "--prometheus", "url", default=PROMETHEUS, show_default=True, help="Address of Prometheus."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def gates(plan: Path, share: int, hours: float, url: str, as_json: bool) -> None:
    """Check the gates in the file PLAN, without asking for any candidate.

    PLAN is a file such as ops/rollout.toml. It defines gates: Prometheus expressions, each with a
    limit and a period. The exit status is 0 only if every gate has been within its limit for its
    whole period. `advance` checks the gates of a candidate.
    """
    now_s = time.time()
    since_ms = int((now_s - hours * 3600) * 1000)
    candidate = Candidate("", share, True, "", since_ms, since_ms)
    with errors_as_messages():
        verdicts = judged_by(read(plan), candidate, url, now_s)[1:]
    if as_json:
        click.echo(json.dumps([as_object(verdict) for verdict in verdicts]))
    else:
        show(verdicts, now_s)
    if not all(verdict.holds for verdict in verdicts):
        raise click.exceptions.Exit(1)


def read(file: Path | None) -> Plan:
    """The plan in a file; without one, that of this version. Raises ClickException."""
    file = file or PLAN
    try:
        return read_plan(file.read_text("utf-8"))
    except (GatesError, OSError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{file}: {exc}") from exc


def judged_by(plan: Plan, candidate: Candidate, url: str, now_s: float) -> list[Verdict]:
    """As `phase.judged`."""
    from ..rollout.phase import judged
    from ..rollout.prometheus import Prometheus

    return judged(plan, candidate, Prometheus(url), now_s)


def show(verdicts: Sequence[Verdict], now_s: float) -> None:
    """Print a line for each gate."""
    for verdict in verdicts:
        click.echo(line_of(verdict, now_s))


def line_of(verdict: Verdict, now_s: float) -> str:
    """A gate for people."""
    gate = verdict.gate
    since = "not now"
    if verdict.since_s is not None:
        since = f"for {max(0.0, now_s - verdict.since_s):.0f} s"
        since += f" of {gate.hold_s:.0f} s" if gate.hold_s else ""
    sign = "holds" if verdict.holds else "FAILS"
    return f"{sign}  {gate.name}: {gate.means}: {figure(verdict)}, wants {gate.bound}, {since}"


def figure(verdict: Verdict) -> str:
    """The gate's figure now."""
    return "no single figure" if verdict.value is None else f"{verdict.value:g}"


def as_object(verdict: Verdict) -> dict[str, Any]:
    """A gate for programs."""
    gate, value = verdict.gate, verdict.value
    return {
        "name": gate.name,
        "holds": verdict.holds,
        "value": value if value is not None and math.isfinite(value) else None,
        "since_s": verdict.since_s,
        "at_least": gate.at_least,
        "at_most": gate.at_most,
        "accepted": gate.accepted,
        "hold_s": gate.hold_s,
    }
