"""`make image`: builds the worker's image and tries it on the local stack, step by step.

With docker, podman or buildah, whichever works here; where none does, it says so and exits 0. The
image is called read-states in the engine's own store, and stays there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from ..local.owner import command
from . import base, engine
from .engine import Engine, EngineError
from .trial import Trial, TrialError, closing

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "ops/Dockerfile"
LOCK = ROOT / "ops/requirements.lock"
WHEELS = ROOT / "build/image/wheels"
IMAGE = "read-states"


def step(name: str, run: Callable[[], str]) -> None:
    """Runs a step and prints its result; a failure ends the command."""
    began = time.monotonic()
    try:
        said = run()
    except (EngineError, TrialError) as exc:
        raise click.ClickException(f"{name}: {exc}") from exc
    click.echo(f"{name:<16}ok  {time.monotonic() - began:5.1f} s  {said}")


def skip(why: str) -> NoReturn:
    """Says why nothing is tried, and ends well."""
    click.echo(f"skipped: {why}")
    sys.exit(0)


@click.command()
@click.option("--only-at-hand", is_flag=True, help="Skip if a base image must be fetched or made.")
@click.option("--engine", "wanted", type=click.Choice(engine.ENGINES), help="Use this one alone.")
def image(only_at_hand: bool, wanted: str | None) -> None:
    """Build the worker's image, and run init, worker, ack, get, health check and SIGTERM in it.

    With a read-only root and as user 10001. Exits 1 if a step fails.
    """
    found, why = engine.find(wanted)
    if found is None:
        skip(f"{'; '.join(why)}. Debian: apt-get install podman runc debootstrap")
    name = base.at_hand(found, DOCKERFILE)
    if name is None and only_at_hand:
        skip("no base image is at hand; `make image` fetches or makes one")
    click.echo(f"{found.version}, {ROOT}")
    with command("read-states-image-") as owner:
        _build(found, name, owner.folder)
        if not found.deploys:
            click.echo(
                f"GOOD: built; {found.name} starts no container with a read-only root, "
                "so nothing was tried in it (docker and podman do)"
            )
            return
        stack = owner.stack(progress=click.echo)
        with closing(Trial(found, IMAGE, stack.env(), owner.folder)) as trial:
            for title, run in trial.steps():
                step(title, run)
    click.echo("GOOD: every step")


def _build(found: Engine, name: str | None, scratch: Path) -> None:
    names = [name] if name else []

    def fetched() -> str:
        if not names:
            names.append(base.fetch(found, DOCKERFILE, scratch, click.echo))
        found.settle(names[0])
        return f"{names[0]} {' '.join((*found.before, *found.limits))}"

    def built() -> str:
        upon = base.upon(found, names[0], LOCK, WHEELS)
        found.build(IMAGE, DOCKERFILE, ROOT, *upon.options)
        return f"{IMAGE} on {upon.image}"

    step("base", fetched)
    step("build", built)


if __name__ == "__main__":
    image()
