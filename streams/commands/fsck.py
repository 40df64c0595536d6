"""`readstates fsck`: is a table file sound?"""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("file", type=click.Path())
def fsck(file: str) -> None:
    """Check the invariants of a table file without changing it.

    Exit status: 0 if the file is sound, 1 if it is damaged, 2 if it is not a table file.
    """
    from readstates.cache.fsck import main

    sys.exit(main([file]))
