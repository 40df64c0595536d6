"""`make bench`: every bench, ours and its peers in turn, and one table at the end."""

from __future__ import annotations

import importlib
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from . import asking
from .suite import Line, Suite, as_markdown, machine

BENCHES = (  # in the order in which they run
    "ingest",
    "steps",
    "round_trip",
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
)


@click.command()
@click.argument("benches", nargs=-1, type=click.Choice(BENCHES))
@click.option("--quick", is_flag=True, help="smaller and fewer rounds")
@click.option(
    "--report-dir",
    type=click.Path(path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    help="where BENCH.json, the pictures and table.md go",
)
def bench(benches: tuple[str, ...], quick: bool, report_dir: Path) -> None:
    """Run BENCHES (default: all). Exits 1 if a goal was not met or a bench did not end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    lines: list[Line] = []
    failed: list[str] = []
    click.echo(" · ".join(f"{key} {value}" for key, value in machine().items()))
    for name in benches or BENCHES:
        click.secho(f"{name}", bold=True)
        module = importlib.import_module(f"readstates.ops.bench.{name}")
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="read-states-bench-") as scratch:
            suite = Suite(name, quick, report_dir, Path(scratch), click.echo)
            try:
                module.run(suite)
            except Exception:  # noqa: BLE001 (the other benches are still worth their time)
                click.secho(traceback.format_exc(), fg="red")
                failed.append(name)
            if not quick:
                asking.stop_stack()
        seconds = time.monotonic() - begin
        click.echo(f"  {name} took {seconds:.0f} s")
        suite.write(seconds)
        for what in suite.leaves_out:
            click.echo(f"  leaves out: {what}")
        lines += suite.lines
    table = as_markdown(lines)
    (report_dir / "table.md").write_text(table, "utf-8")
    click.echo(table)
    for name in failed:
        click.secho(f"{name} did not end: its error stands above", fg="red")
    sys.exit(0 if not failed and all(line.met is not False for line in lines) else 1)


if __name__ == "__main__":
    bench()
