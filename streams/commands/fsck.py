"""`readstates fsck`: is a table file sound?"""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("file", type=click.Path())
def fsck(file: str) -> None:
    """Check the invariants of a table file without changing it.

    Exit status: 0 the file is sound; 1 it is damaged; 2 it is not a table file.
    """
    from readstates.cache.fsck import main

    sys.exit(main([file]))
