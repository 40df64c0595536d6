"""`readstates worker`: one worker, with every setting as a flag."""

from __future__ import annotations

import sys
from typing import Any

import click

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
@with_settings()
def worker(loglevel: str, log_format: str, **flags: Any) -> None:
    """Run one worker until SIGTERM or SIGINT."""
    from ..app import run

    sys.exit(run(settings_of(flags), loglevel, log_format))
