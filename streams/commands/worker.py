"""`readstates worker`: one worker, with every setting as a flag."""

from __future__ import annotations

import sys
from functools import partial

import click

from .. import logs
from ..config import Settings
from ..worker.supervise import Supervisor
from .options import SettingsCommand, with_settings


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
    help="Format of the log on standard output; json: one object per line.",
    envvar="READ_STATES_LOG_FORMAT",
    show_envvar=True,
)
@click.option(
    "--supervise",
    is_flag=True,
    help="Start the worker again when it dies, and pass signals on to it.",
)
@with_settings()
def worker(settings: Settings, loglevel: str, log_format: str, supervise: bool) -> None:
    """Run one worker until SIGTERM, SIGINT or SIGHUP."""

    from ..app import build
    from ..worker.run import run

    start = partial(run, build, settings, loglevel, log_format)
    if supervise:
        logs.set_up(log_format, loglevel)
        sys.exit(Supervisor(start, settings.shutdown_timeout_s).run())
    sys.exit(start())
