"""`readstates stack up | down | status | env`."""

import json
import shlex
import sys
import time
from pathlib import Path

import click

from .cluster import NODES_MAX
from .owner import spoken_errors
from .stack import Stack, default_data_dir

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_dir,
    show_default="~/.local/share/read-states/stack",
    help="Folder of this stack. Each stack needs its own.",
)
_count = click.IntRange(1, NODES_MAX)


@click.group()
def stack() -> None:
    """Start, stop and describe a local Kafka and Cassandra, for development."""


@stack.command()
@_data_dir
@click.option("--brokers", type=_count, default=1, show_default=True, help="Kafka brokers.")
@click.option(
    "--cassandra-nodes", type=_count, default=1, show_default=True, help="Cassandra nodes."
)
@click.option(
    "--secure",
    is_flag=True,
    help="Use TLS and logins on every port; `stack env` prints the settings.",
)
def up(data_dir: Path, brokers: int, cassandra_nodes: int, secure: bool) -> None:
    """Start the stack and wait until it answers. Safe to repeat."""
    begin = time.monotonic()
    with spoken_errors():
        local = Stack(data_dir)
        started = local.up(brokers, cassandra_nodes, _say, secure=secure)
    if not started:
        _say(f"already running in {local.data_dir}")
        return
    _say(f"up after {time.monotonic() - begin:.1f} s, in {local.data_dir}")
    where = "" if data_dir == default_data_dir() else f" --data-dir {shlex.quote(str(data_dir))}"
    _say(f'point the other commands at it: eval "$(readstates stack env{where})"')


@stack.command()
@_data_dir
@click.option("--remove", is_flag=True, help="Also delete the data of the stack.")
def down(data_dir: Path, remove: bool) -> None:
    """Stop the stack. Its data stays unless --remove is given."""
    with spoken_errors():
        stopped = Stack(data_dir).down(remove, _say)
    _say(("stopped" if stopped else "nothing was running") + (", data removed" if remove else ""))


@stack.command()
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(data_dir: Path, as_json: bool) -> None:
    """Show which servers run and answer.

    Exit status: 0 if everything answers, 1 if something does not.
    """
    with spoken_errors():
        now = Stack(data_dir).status()
    if as_json:
        click.echo(json.dumps(now.as_dict(), indent=2))
    else:
        for server in now.processes:
            word = "answering" if server.answering else "not answering"
            shown = f"{word}, pid {server.pid}" if server.alive else "not running"
            name, endpoint = f"{server.role}-{server.number}", f"{server.address}:{server.port}"
            click.echo(f"{name:<12} {endpoint:<18} {shown}")
        click.echo(f"{'up' if now.up else 'not up'}, in {now.data_dir}")
    sys.exit(0 if now.up else 1)


@stack.command()
@_data_dir
def env(data_dir: Path) -> None:
    """Print the settings of the stack as shell commands, for `eval`."""
    with spoken_errors():
        settings = Stack(data_dir).env()
    for name, value in settings.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    stack()
