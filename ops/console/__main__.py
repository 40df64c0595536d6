"""`make pictures`: the console of a real worker, the demo's end, and the gateway's page, as PNGs.

The console is seen at rest, under load and during an outage, on a desk and on a phone, light and
dark: `<state>-<window>-<scheme>.png`. The load is what this machine takes with ease. It runs for a
while before the worker that is seen starts, because servers that were just started are slow. The
outage is Cassandra standing still (SIGSTOP) while the load goes on. The demo's picture shows what a
real run of it printed. The gateway's is `devices.png`, two devices of a user.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from readstates.streams.config import Settings

from ..demo.asking import loop
from ..local.one_worker import one_worker
from ..local.owner import Owner, command
from ..local.stack import Stack
from ..proof.sender import DAYS, USUAL, Sender
from ..proof.traffic import Traffic
from . import devices, terminal
from .browser import Browser
from .gateway_process import GatewayProcess
from .png import smaller

PARTITIONS, USERS, SEED = 8, 20_000, 1
UPDATES_S, QUERIES_S = 800, 25
WARM_UP_S = 60.0
DEADLINE_S = 10.0  # of a query: the outage shows which ones get an error
CONSOLE, DEMO, GATEWAY = "console", "demo", "gateway"
TERMINAL_SCALE = 1.5  # small letters stay sharp on a dense screen
WINDOWS = {"desk": (1280, 900, 1.0), "phone": (390, 844, 1.0)}
SETTINGS = {
    "FLUSH_DELAY_S": 15,
    "CACHE_STATES": 8_000,
    "USER_STATES_MAX": 500,
    "CASSANDRA_TIMEOUT_S": 2,
}


class Camera:
    """A browser on the console, and where its pictures go."""

    def __init__(self, browser: Browser, target: Path) -> None:
        self.browser, self.target = browser, target
        self.taken: list[Path] = []

    async def take(self, state: str) -> None:
        for window, (width, height, scale) in WINDOWS.items():
            for scheme in ("light", "dark"):
                await self.browser.look(width, height, dark=scheme == "dark", scale=scale)
                await asyncio.sleep(2.5)  # until it has drawn anew
                path = self.target / f"{state}-{window}-{scheme}.png"
                path.write_bytes(await self.browser.picture())
                self.taken.append(path)


@contextmanager
def load_of(
    settings: Settings, name: str, seconds: float
) -> Iterator[Callable[[], Awaitable[None]]]:
    """Updates and queries for so long; what is yielded waits for their end. `name`: of the loop."""
    queries = list(Traffic(SEED, USERS).queries(int(QUERIES_S * seconds)))
    with (
        Sender(SEED, USERS) as sender,
        loop(settings, name, settings.queries_topic, DEADLINE_S) as asker,
    ):
        sender.connect(settings)
        sender.send(USUAL, int(UPDATES_S * seconds), seconds, days=DAYS)
        asking = asyncio.create_task(asyncio.to_thread(asker.run, queries, QUERIES_S, seconds))

        async def ended() -> None:
            await asking
            await asyncio.to_thread(sender.wait)

        yield ended


async def warm_up(settings: Settings, pace: float) -> None:
    with load_of(settings, "warm-up", WARM_UP_S * pace) as under_load:
        await under_load()


async def photograph(
    stack: Stack, settings: Settings, found: Browser, url: str, target: Path, pace: float
) -> list[Path]:
    """The three states, one after the other; about three minutes times `pace`."""
    loaded_s, outage_s = 120 * pace, 60 * pace
    seconds = loaded_s + outage_s + 15
    async with found as browser:
        camera = Camera(browser, target)
        await browser.look(*WINDOWS["desk"][:2])
        await browser.open(url)
        await asyncio.sleep(15 * pace)
        await camera.take("rest")
        await browser.look(*WINDOWS["desk"][:2])
        with load_of(settings, "pictures", seconds) as under_load:
            await asyncio.sleep(loaded_s)
            await camera.take("load")
            with stack.standing_still("cassandra"):
                await asyncio.sleep(outage_s - 10)
                await camera.take("outage")
            await under_load()
        for complaint in browser.complaints:
            click.echo(f"the page complained: {complaint}")
    return camera.taken


async def print_of(found: Browser, lines: list[str]) -> bytes:
    """A picture of a terminal with these lines."""
    text, width, height = terminal.page("make demo", lines)
    async with found as browser:
        await browser.look(width, height, scale=TERMINAL_SCALE)
        await browser.write(text)
        return await browser.picture()


def demo(folder: Path, target: Path) -> list[Path]:
    """The end of `make demo` as its terminal shows it, also as a text (about two minutes)."""
    status, written = terminal.record([sys.executable, "-m", "readstates.ops.demo"])
    lines = terminal.shown(written)
    if status != 0:
        raise click.ClickException("\n".join([f"the demo ended with {status}:", *lines]))
    (target / "demo.txt").write_text("\n".join([*lines, ""]), "utf-8")
    path = target / "demo.png"
    path.write_bytes(asyncio.run(print_of(Browser(folder / "terminal"), lines)))
    return [path]


def console(run: Owner, target: Path, pace: float) -> list[Path]:
    """The console in its three states (about six minutes)."""
    stack = run.stack(progress=click.echo, brief=True)
    settings, worker = one_worker(stack, run.folder, PARTITIONS, SETTINGS)
    click.echo(f"warming up, {WARM_UP_S * pace:.0f} s")
    asyncio.run(warm_up(settings, pace))
    worker.stop()
    worker.start().wait_ready()
    browser = Browser(run.folder / "browser")
    taken = asyncio.run(photograph(stack, settings, browser, worker.url, target, pace))
    worker.stop()
    return taken


def gateway(run: Owner, target: Path) -> list[Path]:
    """Two devices of a user, through the example of a gateway (about half a minute)."""
    stack = run.stack(progress=click.echo, brief=True)
    _, worker = one_worker(stack, run.folder, PARTITIONS, {**SETTINGS, "CHANGES": "on"})
    path = target / "devices.png"
    with GatewayProcess(stack.env(), run.folder / "gateway.log") as process:
        path.write_bytes(asyncio.run(devices.photograph(run.folder, process.url)))
    worker.stop()
    return [path]


@click.command()
@click.option("--target", default="build/pictures", show_default=True, help="Folder for the PNGs.")
@click.option("--pace", default=1.0, show_default=True, help="Factor by which it waits longer.")
@click.option("--only", type=click.Choice([CONSOLE, DEMO, GATEWAY]), help="Take these alone.")
def pictures(target: str, pace: float, only: str | None) -> None:
    """Take pictures of the console in its three states, of the demo's end, and of the gateway."""
    folder, taken = Path(target), []
    folder.mkdir(parents=True, exist_ok=True)
    with command("read-states-pictures-") as run:
        if only in (None, DEMO):  # first: it needs the machine for itself
            taken += demo(run.folder, folder)
        if only in (None, CONSOLE):
            taken += console(run, folder, pace)
    if only in (None, GATEWAY):  # a run of its own: its worker needs other settings
        with command("read-states-pictures-") as run:
            taken += gateway(run, folder)
    for path in taken:  # only now: it takes seconds of processor
        path.write_bytes(smaller(path.read_bytes()))
        click.echo(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    pictures()
