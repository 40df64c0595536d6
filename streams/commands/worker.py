"""`readstates worker`: one worker, with every setting as a flag."""

from __future__ import annotations

import sys
from typing import Any

import click

from .. import logs
from ..worker.supervise import FLAG, LIFELINE, end_with_supervisor
from ..worker.supervise import supervise as run_supervised
from .options import SettingsCommand, settings_of, with_settings


@click.command(cls=SettingsCommand)
@click.option(
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Minimum level to log.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the log on standard output; json: one object per line.",
    envvar="READ_STATES_LOG_FORMAT",
    show_envvar=True,
)
@click.option(
    FLAG,
    is_flag=True,
    help="Start the worker again when it dies, and pass signals on to it.",
)
@click.option(
    LIFELINE,
    type=int,
    hidden=True,
    help="Descriptor of a pipe; the worker shuts down when its other end is closed.",
)
@with_settings()
def worker(
    loglevel: str, log_format: str, supervise: bool, lifeline: int | None, **flags: Any
) -> None:
    """Run one worker until SIGTERM, SIGINT or SIGHUP."""
    if lifeline is not None:
        end_with_supervisor(lifeline)
    settings = settings_of(flags)
    if supervise:
        logs.set_up(log_format, loglevel)
        sys.exit(run_supervised(settings.shutdown_timeout_s))
    from ..app import run

    sys.exit(run(settings, loglevel, log_format))
