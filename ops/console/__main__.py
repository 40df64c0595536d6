"""`make pictures`: the console of a real worker at rest, under load and during an outage, as PNGs.

Each state is seen on a desk and on a phone, light and dark: `<state>-<window>-<scheme>.png`. The
load is what this machine takes with ease. It runs for a while before the worker that is seen
starts, because servers that were just started are slow. The outage is Cassandra standing still
(SIGSTOP) while the load goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..demo.asking import loop
from ..local.owner import command
from ..local.stack import Stack
from ..local.worker import WorkerProcess
from ..proof.sender import DAYS, USUAL, Sender
from ..proof.traffic import Traffic
from .browser import Browser
from .png import smaller

PARTITIONS, USERS, SEED = 8, 20_000, 1
UPDATES_S, QUERIES_S = 800, 25
WARM_UP_S = 60.0
DEADLINE_S = 10.0  # of a query: the outage shows which ones get an error
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


@click.command()
@click.option("--target", default="build/pictures", show_default=True, help="Folder for the PNGs.")
@click.option("--pace", default=1.0, show_default=True, help="Factor by which it waits longer.")
def pictures(target: str, pace: float) -> None:
    """The console at rest, under load and during an outage, as PNGs."""
    Path(target).mkdir(parents=True, exist_ok=True)
    with command("read-states-pictures-") as run:
        stack = run.stack(progress=click.echo, brief=True)
        env = {
            **stack.env(),
            **{f"READ_STATES_{name}": str(value) for name, value in SETTINGS.items()},
            "READ_STATES_CACHE_DIR": str(run.folder / "tables"),
        }
        settings = Settings.load(env)
        topics.create(settings, PARTITIONS, 1)
        store = Store(settings)
        store.create_schema()
        store.close()
        worker = WorkerProcess(env, run.folder / "worker.log").start()
        worker.wait_ready()
        click.echo(f"warming up, {WARM_UP_S * pace:.0f} s")
        asyncio.run(warm_up(settings, pace))
        worker.stop()
        worker = WorkerProcess(env, run.folder / "worker.log").start()
        worker.wait_ready()
        browser = Browser(run.folder / "browser")
        taken = asyncio.run(photograph(stack, settings, browser, worker.url, Path(target), pace))
        worker.stop()
    for path in taken:  # only now: it takes seconds of processor
        path.write_bytes(smaller(path.read_bytes()))
        click.echo(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    pictures()
