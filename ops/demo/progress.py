"""Says how a long step goes: on a terminal in one live line, elsewhere in a line now and then."""

from __future__ import annotations

import sys
import time

import click

EVERY_LIVE_S, EVERY_S = 0.5, 5.0


def say(text: str) -> None:
    """A line that stays."""
    click.echo(text)


class Progress:
    """One step. Call it as often as you like; it shows a text only now and then.

    Use it as a context manager: at its end a live line is wiped away.
    """

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._every_s = EVERY_LIVE_S if self._live else EVERY_S
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live:
            click.echo("\r\033[K", nl=False)

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._shown >= self._every_s:
            self._shown = now
            line = f"  {text}, {now - self._begun:.0f} s"
            click.echo(f"\r{line}\033[K" if self._live else line, nl=not self._live)
