"""`make drills`: each alert fires by its real cause and is silent after its runbook's fix.

On a real Kafka, Cassandra, worker and Prometheus, with a clock SCALE times faster (`scaled.py`).
Beside it every query of every dashboard's panel must return data. Exits 0 if all of that was seen.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from readstates.ops.drills import scaled
from readstates.ops.drills.drills import DRILLS, Drill
from readstates.ops.drills.prometheus import PrometheusError
from readstates.ops.drills.world import World
from readstates.ops.local.errors import StackError
from readstates.ops.local.stack import Stack

CALM_TIMEOUT_S = 240.0
FIRE_TIMEOUT_S = 240.0
CLEAR_TIMEOUT_S = 300.0
LOOK_S = 0.5
SAY_S = 30.0
DASHBOARDS = Path(__file__).parents[1] / "grafana/dashboards"

_start = time.monotonic()


def say(text: str) -> None:
    """A line of the timeline: minutes and seconds since the start."""
    seconds = int(time.monotonic() - _start)
    click.echo(f"{seconds // 60:>3}:{seconds % 60:02}  {text}")


@dataclass
class Verdict:
    """How one alert did; None: not seen."""

    alert: str
    drill: Drill
    fired_s: float | None = None
    cleared_s: float | None = None

    @property
    def good(self) -> bool:
        return self.fired_s is not None and self.cleared_s is not None


def wait_calm(world: World, alerts: tuple[str, ...]) -> set[str]:
    """Until none of these fires; returns those that do not stop: they prove nothing."""
    end = time.monotonic() + CALM_TIMEOUT_S
    while (early := world.prometheus.firing() & set(alerts)) and time.monotonic() < end:
        time.sleep(LOOK_S)
    return early


def watch(world: World, wanted: set[str], firing: bool, timeout_s: float) -> dict[str, float]:
    """Seconds after which each alert fired, or was silent; those that did not are left out."""
    began = said = time.monotonic()
    seen: dict[str, float] = {}
    while wanted - seen.keys() and time.monotonic() - began < timeout_s:
        fire = world.prometheus.firing()
        for alert in sorted((wanted & fire if firing else wanted - fire) - seen.keys()):
            seen[alert] = time.monotonic() - began
            say(f"  {'fires' if firing else 'silent':<8}{alert} after {seen[alert]:.0f} s")
        if time.monotonic() - said > SAY_S:
            said = time.monotonic()
            say(f"  … {', '.join(sorted(wanted - seen.keys()))}")
        time.sleep(LOOK_S)
    return seen


def run(world: World, drill: Drill) -> list[Verdict]:
    """One drill: calm, cause, fire, fix, clear. Its times include those of cause and fix."""
    early = wait_calm(world, drill.alerts)
    for alert in sorted(early):
        say(f"  {alert} fires before its cause and does not stop: not tried")
    wanted = set(drill.alerts) - early
    say(f"CAUSE   {drill.cause}")
    began = time.monotonic()
    drill.break_it(world)
    breaking_s = time.monotonic() - began
    fired = watch(world, wanted, True, FIRE_TIMEOUT_S)
    say(f"FIX     {drill.fix}")
    began = time.monotonic()
    drill.mend_it(world)
    mending_s = time.monotonic() - began
    cleared = watch(world, set(fired), False, CLEAR_TIMEOUT_S)
    return [
        Verdict(
            alert,
            drill,
            fired[alert] + breaking_s if alert in fired else None,
            cleared[alert] + mending_s if alert in cleared else None,
        )
        for alert in drill.alerts
    ]


def panel_queries() -> list[tuple[str, str]]:
    """Where, and the query with its variables filled in."""
    filled = {
        "$__rate_interval": "20s",
        "$__range": "60s",
        "$job": "read-states",
        "$partition": "0",
    }
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for name, value in filled.items():
                    query = query.replace(name, value)
                query = re.sub(r"\[(\d+[mh])\]", lambda m: f"[{scaled.shorter(m[1])}]", query)
                found.append((f"{path.stem}: {panel['title']}", query))
    return found


def silent_panels(world: World) -> list[str]:
    """Panels with a query that returns nothing."""
    asked = panel_queries()
    silent = [f"{where}: {query}" for where, query in asked if not world.prometheus.query(query)]
    say(f"PANELS {len(asked) - len(silent)} of {len(asked)} queries return data")
    for text in silent:
        say(f"  NO DATA {text}")
    return silent


def table(verdicts: list[Verdict]) -> None:
    """The verdicts, a line each."""
    click.echo(f"\n{'alert':<31} {'cause':<48} {'fired':>7}  {'fix':<48} {'cleared':>7}")
    for verdict in verdicts:
        fired, cleared = (
            "never" if seconds is None else f"{seconds:.0f} s"
            for seconds in (verdict.fired_s, verdict.cleared_s)
        )
        click.echo(
            f"{verdict.alert:<31} {verdict.drill.cause:<48} {fired:>7}  "
            f"{verdict.drill.fix:<48} {cleared:>7}"
        )


@click.command()
@click.option("--only", multiple=True, help="the drills that have this alert; may be repeated")
def drills(only: tuple[str, ...]) -> None:
    """Each alert fires by its real cause, and is silent after its runbook's fix."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    chosen = [drill for drill in DRILLS if not only or set(only) & set(drill.alerts)]
    verdicts: list[Verdict] = []
    silent: list[str] = []
    with tempfile.TemporaryDirectory(prefix="read-states-drills-") as name:
        stack, world = Stack(Path(name) / "stack"), None
        try:
            stack.up(progress=say)
            world = World(Path(name), stack)
            world.start()
            say(f"worker and Prometheus run; times are 1/{scaled.SCALE} of production's")
            time.sleep(30)  # a window with data
            silent = silent_panels(world)
            for drill in chosen:
                verdicts += run(world, drill)
        except (StackError, PrometheusError) as exc:
            raise click.ClickException(str(exc)) from exc
        finally:
            if world is not None:
                world.stop()
            stack.down(remove=True)
    table(verdicts)
    untried = set() if only else set(scaled.alerts()) - {v.alert for v in verdicts}
    good = not silent and not untried and all(v.good for v in verdicts)
    for alert in sorted(untried):
        click.echo(f"{alert}: no drill")
    seen = sum(v.good for v in verdicts)
    click.echo(f"{seen} of {len(verdicts)} alerts fired and cleared; {'GOOD' if good else 'BAD'}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    drills()
