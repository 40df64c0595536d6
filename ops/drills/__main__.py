"""`make drills`: each alert fires from a real cause and is silent after its runbook's fix.

On a real Kafka, Cassandra, worker and Prometheus, with a clock SCALE times faster (`scaled.py`).
Beside it every query of every dashboard's panel must return data, and every query of the runbooks
an answer. Exits 0 if all of that was seen.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from readstates.cache.tablefile import SHM

from ..local.owner import command
from ..local.worker import WorkerError
from . import queries, scaled
from .drills import DRILLS, Drill
from .prometheus import PrometheusError
from .world import World

CALM_TIMEOUT_S = 240.0
FIRE_TIMEOUT_S = 240.0
CLEAR_TIMEOUT_S = 300.0
LOOK_S = 0.5
SAY_S = 30.0
STAY_S = 20.0  # how long an alert must stay silent to count as cleared

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
    lapsed: bool = False  # it stopped firing before the fix: the fix proves nothing
    again: bool = False  # it fired again after it had been silent: the fix does not hold

    @property
    def good(self) -> bool:
        seen = self.fired_s is not None and self.cleared_s is not None
        return seen and not self.lapsed and not self.again


def wait_calm(world: World, alerts: tuple[str, ...]) -> set[str]:
    """Until none of these fires; returns those that do not stop: they prove nothing."""
    end = time.monotonic() + CALM_TIMEOUT_S
    while (early := world.prometheus.firing() & set(alerts)) and time.monotonic() < end:
        time.sleep(LOOK_S)
    return early


def watch(
    world: World, wanted: set[str], firing: bool, timeout_s: float, stay_s: float = 0.0
) -> tuple[dict[str, float], set[str]]:
    """Seconds after which each alert fired, or was silent; those that did not are left out.

    Ends `stay_s` after the last of them. Second: those that did not stay so until the end.
    """
    began = said = last = now = time.monotonic()
    seen: dict[str, float] = {}
    turned: set[str] = set()
    while now < last + stay_s if wanted <= seen.keys() else now < began + timeout_s:
        fire = world.prometheus.firing()
        now = time.monotonic()
        right = wanted & fire if firing else wanted - fire
        for alert in sorted(right - seen.keys()):
            seen[alert], last = now - began, now
            say(f"  {'fires' if firing else 'silent':<8}{alert} after {seen[alert]:.0f} s")
        for alert in sorted(seen.keys() - right - turned):
            turned.add(alert)
            say(f"  {'STOPS' if firing else 'AGAIN':<8}{alert} after {now - began:.0f} s")
        if now - said > SAY_S and wanted - seen.keys():
            said = now
            say(f"  … {', '.join(sorted(wanted - seen.keys()))}")
        time.sleep(LOOK_S)
    return seen, turned


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
    fired, lapsed = watch(world, wanted, True, FIRE_TIMEOUT_S)
    say(f"FIX     {drill.fix}")
    began = time.monotonic()
    drill.mend_it(world)
    mending_s = time.monotonic() - began
    cleared, again = watch(world, set(fired), False, CLEAR_TIMEOUT_S, STAY_S)
    return [
        Verdict(
            alert,
            drill,
            fired[alert] + breaking_s if alert in fired else None,
            cleared[alert] + mending_s if alert in cleared else None,
            alert in lapsed,
            alert in again,
        )
        for alert in drill.alerts
    ]


def silent_panels(world: World) -> list[str]:
    """Panels with a query that returns nothing."""
    asked = queries.of_panels()
    silent = [f"{where}: {query}" for where, query in asked if not world.prometheus.query(query)]
    say(f"PANELS {len(asked) - len(silent)} of {len(asked)} queries return data")
    for text in silent:
        say(f"  NO DATA {text}")
    return silent


def refused_queries(world: World) -> list[str]:
    """Queries of the runbooks that Prometheus does not answer; an answer may be empty."""
    asked, refused = queries.of_runbooks(), []
    for where, query in asked:
        try:
            world.prometheus.query(query)
        except PrometheusError as exc:
            refused.append(f"{where}: {exc}")
    say(f"RUNBOOKS {len(asked) - len(refused)} of {len(asked)} queries answered")
    for text in refused:
        say(f"  REFUSED {text}")
    return refused


def table(verdicts: list[Verdict]) -> None:
    """The verdicts, a line each, as ops/runbooks/README.md has them."""
    click.echo("\n| alert | cause | fired after | fix | cleared after |\n|---|---|---|---|---|")
    for verdict in verdicts:
        fired, cleared = (
            "never" if seconds is None else f"{seconds:.0f} s"
            for seconds in (verdict.fired_s, verdict.cleared_s)
        )
        fired += ", then stopped before the fix" if verdict.lapsed else ""
        cleared += ", then fired again" if verdict.again else ""
        drill = verdict.drill
        click.echo(f"| {verdict.alert} | {drill.cause} | {fired} | {drill.fix} | {cleared} |")


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(scaled.alerts()),
    metavar="ALERT",
    help="Run only the drills that have this alert; repeatable.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="New or empty folder for state and logs, which are kept. Default: a temporary folder that "
    "is removed.",
)
def drills(only: tuple[str, ...], data_dir: Path | None) -> None:
    """Make each alert fire from a real cause, and apply the fix of its runbook.

    An alert must fire until the fix, and stay silent for a while after it. The exit status is 0
    only if every alert did.
    """
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir = data_dir.absolute()
        if any(data_dir.iterdir()):
            raise click.BadParameter(f"{data_dir} is not empty", param_hint="--data-dir")
    chosen = [drill for drill in DRILLS if not only or set(only) & set(drill.alerts)]
    verdicts: list[Verdict] = []
    unanswered: list[str] = []
    with command("read-states-drills-", keep=data_dir) as owner:
        world = World(owner.folder, owner.new_folder(SHM), owner.stack(progress=say))
        try:
            world.start()
            say(f"worker and Prometheus run; times are 1/{scaled.SCALE} of production's")
            time.sleep(30)  # a window with data
            unanswered = silent_panels(world) + refused_queries(world)
            for drill in chosen:
                verdicts += run(world, drill)
        except (PrometheusError, WorkerError) as exc:
            raise click.ClickException(str(exc)) from exc
        finally:
            world.stop()
            del world  # its clients end before Kafka does, or they complain
    table(verdicts)
    untried = set() if only else set(scaled.alerts()) - {v.alert for v in verdicts}
    good = not unanswered and not untried and all(v.good for v in verdicts)
    for alert in sorted(untried):
        click.echo(f"{alert}: no drill")
    seen = sum(v.good for v in verdicts)
    click.echo(f"{seen} of {len(verdicts)} alerts fired and cleared; {'GOOD' if good else 'BAD'}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    drills()
