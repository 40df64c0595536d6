"""A group of commands whose modules are imported when a command is called.

`--help` of the group imports none of them and stays fast. If only the client is installed, packages
that a worker needs may be missing; a command that needs one says so.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import click


class LazyCommand(NamedTuple):
    """The place of a command, and its line in `readstates --help`."""

    module: str
    function: str
    help: str
    extra: str = "worker"  # of this project's package: what the command needs beyond the client

    def load(self) -> click.Command:
        command: click.Command = getattr(import_module(self.module), self.function)
        return command


class LazyGroup(click.Group):
    """A group of `lazy` commands, by name."""

    def __init__(self, *args: Any, lazy: dict[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        try:
            return lazy.load()
        except ModuleNotFoundError as exc:
            raise self._missing(cmd_name, exc) from exc.__cause__

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name].help) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as exc:
            raise self._missing(ctx.invoked_subcommand or "", exc) from exc.__cause__

    def _missing(self, name: str, exc: ModuleNotFoundError) -> Exception:
        """What to raise where a command's package is missing; one of our own is a defect."""
        if (exc.name or "").startswith("readstates."):
            return exc
        return click.ClickException(
            f"{name} needs the Python package of {exc.name}: "
            f"pip install 'readstates[{self._lazy[name].extra}]'"
        )
