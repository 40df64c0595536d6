"""`make chaos`: faults of every kind on real servers under load, and the proof at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..local.errors import StackError
from ..local.owner import command
from ..local.worker import WorkerError
from . import picture, report
from .campaign import Campaign, Result
from .schedule import NAMES
from .world import NotHealthyError, World


@click.command()
@click.option("--faults", default=60, show_default=True, help="Faults, the last one included.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(NAMES),
    metavar="KIND",
    help="Draw faults of this kind only; repeatable. The last fault stays what it is.",
)
@click.option("--minutes", default=0.0, help="Start no fault after this time. 0: no limit.")
@click.option("--seed", default=1, show_default=True, help="Seed of traffic and faults.")
@click.option("--updates-per-second", default=600.0, show_default=True)
@click.option("--queries-per-second", default=30.0, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder for state and logs, which are kept. Default: a temporary folder that is removed.",
)
@click.option(
    "--report-dir",
    type=click.Path(path_type=Path),
    default=Path("build/chaos"),
    show_default=True,
    help="Folder for chaos.svg and chaos.json.",
)
def chaos(
    faults: int,
    kinds: tuple[str, ...],
    minutes: float,
    seed: int,
    updates_per_second: float,
    queries_per_second: float,
    data_dir: Path | None,
    report_dir: Path,
) -> None:
    """Three brokers, three Cassandra nodes, three workers; load all the time; faults.

    Then every read state in Cassandra and every reply is held against a fold of the log. Exits 0
    only if all is right.
    """
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir = data_dir.absolute()
    with command("read-states-chaos-", keep=data_dir) as run:
        world = World(run, click.echo)
        campaign = Campaign(world, seed, click.echo, minutes, kinds or NAMES)
        click.echo(f"seed {seed}, {faults} faults; state in {run.folder}")
        try:
            campaign.run(faults, updates_per_second, queries_per_second)
        except (NotHealthyError, StackError, WorkerError) as exc:
            campaign.result.problems.append(str(exc))
        finally:
            world.close()
    click.echo("stopped: nothing is left running")
    report.verdict(campaign.result, click.echo)
    _write(campaign.result, report_dir)
    sys.exit(0 if campaign.result.right else 1)


def _write(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    begin_s = result.begin_s
    (folder / "chaos.json").write_text(json.dumps(report.as_json(result)) + "\n", "utf-8")
    verdict = "right" if result.right else "not right"
    drawn = picture.draw(
        f"{len(result.timeline)} faults, seed {result.seed}: {verdict}",
        [(t - begin_s, s) for t, s in result.latencies],
        [(t - begin_s, float(records)) for t, records in result.lag],
        [
            (f.kind, f.begin_s - begin_s, f.end_s - begin_s, f.well_s - begin_s)
            for f in result.timeline
        ],
    )
    (folder / "chaos.svg").write_text(drawn, "utf-8")
    click.echo(f"{folder / 'chaos.svg'}, {folder / 'chaos.json'}")


if __name__ == "__main__":
    chaos()
