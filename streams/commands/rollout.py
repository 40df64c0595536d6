"""`readstates rollout`: another version or configuration runs beside the live workers."""

from __future__ import annotations

import click

from .rollout_compare import compare
from .rollout_gates import gates


@click.group("rollout")
def rollout() -> None:
    """Run another version or configuration beside the live workers, as a candidate."""


rollout.add_command(compare)
rollout.add_command(gates)
