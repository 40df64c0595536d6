"""`make bench`: every bench, ours and its peers in turn, and one table at the end."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from pathlib import Path

import click

from ..local.owner import Owner, command
from .suite import Line, Suite, as_markdown, machine

BENCHES = (  # in the order in which they run
    "ingest",
    "steps",
    "round_trip",
    "ordinary",
    "changes",
    "service_time",
    "query_rate",
    "graph",
    "table",
    "memory",
    "writeout",
    "misses",
    "storm",
    "evictions",
    "growth",
    "scale",
    "restart",
    "handover",
    "supervised",
)


@click.command()
@click.argument("benches", nargs=-1, type=click.Choice(BENCHES))
@click.option("--quick", is_flag=True, help="Run fewer and smaller rounds.")
@click.option(
    "--report-dir",
    type=click.Path(path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    help="Folder for BENCH.json, the pictures and table.md.",
)
def bench(benches: tuple[str, ...], quick: bool, report_dir: Path) -> None:
    """Run BENCHES (default: all). Exits 1 if a goal was not met or a bench did not end."""
    lines: list[Line] = []
    failed: list[str] = []
    run_of = machine()
    click.echo(" · ".join(f"{key} {value}" for key, value in run_of.items()))
    with command("read-states-bench-") as shared:
        for name in benches or BENCHES:
            click.secho(f"{name}", bold=True)
            suite, good = run(name, quick, report_dir, shared)
            lines += suite.lines
            if not good:
                failed.append(name)
    table = f"Run of {run_of['date']}, commit {run_of['commit']}.\n\n{as_markdown(lines)}"
    (report_dir / "table.md").write_text(table, "utf-8")
    click.echo(table)
    for name in failed:
        click.secho(f"{name} did not end: its error stands above", fg="red")
    sys.exit(0 if not failed and all(line.met is not False for line in lines) else 1)


def run(name: str, quick: bool, report_dir: Path, shared: Owner) -> tuple[Suite, bool]:
    """Run one bench; True if it ended by itself. Only the shared servers are left afterwards."""
    module = importlib.import_module(f"readstates.ops.bench.{name}")
    begin, good = time.monotonic(), True
    with Owner("read-states-bench-") as own:
        suite = Suite(name, quick, report_dir, own, shared if quick else own, click.echo)
        try:
            module.run(suite)
        except Exception:  # noqa: BLE001 (the other benches are still worth their time)
            click.secho(traceback.format_exc(), fg="red")
            good = False
    seconds = time.monotonic() - begin
    click.echo(f"  {name} took {seconds:.0f} s")
    suite.write(seconds)
    for what in suite.leaves_out:
        click.echo(f"  leaves out: {what}")
    return suite, good


if __name__ == "__main__":
    bench()
