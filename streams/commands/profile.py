"""`readstates profile`: a flame graph of what a running worker spends its processor time on."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from ..config import Settings
from .options import SettingsCommand, with_settings

TIMEOUT_S = 10.0
POLL_S = 0.5
LATE_MAX_S = 30.0  # how much later than asked a busy worker may be


@click.command("profile", cls=SettingsCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="profile.svg")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 300),
    default=30.0,
    show_default=True,
    help="Seconds to sample.",
)
@with_settings("http_host", "http_port")
def profile(settings: Settings, file: Path, seconds: float) -> None:
    """Write a flame graph (SVG) of the worker at HTTP_HOST and HTTP_PORT to FILE.

    The worker samples the stacks of its threads while it works. It must run on this machine, under
    Linux, and HTTP_HOST must be a loopback address. The width of a box is the processor time of a
    function, including the functions that it calls. Threads that never run Python, such as those of
    librdkafka, are not shown.
    """
    from .flame_graph import flame_graph

    host = "127.0.0.1" if settings.http_host in ("", "0.0.0.0") else settings.http_host
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}/profile"
    _ask(f"{base}?seconds={seconds}", method="POST")
    click.echo(f"sampling for {seconds:g} s", err=True)
    time.sleep(seconds)
    end = time.monotonic() + LATE_MAX_S
    while (found := _ask(base)) is None:
        if time.monotonic() > end:
            raise click.ClickException(f"{base}: the worker has not finished the profile")
        time.sleep(POLL_S)
    stacks = {tuple(stack): ns for stack, ns in found}
    used_s = sum(stacks.values()) / 1e9
    worker = f"{host}:{settings.http_port}"
    title = f"worker at {worker}: {used_s:.1f} s of processor time in {seconds:g} s"
    file.write_text(flame_graph(stacks, title), "utf-8")
    click.echo(f"{title}: {file}")


def _ask(url: str, method: str = "GET") -> list[Any] | None:
    """The worker's answer; None if the profile is not finished."""
    request = urllib.request.Request(url, method=method, headers={"read-states-profile": "1"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            body = answer.read()
            is_waiting = answer.status == 202 and method == "GET"
            found: list[Any] | None = None if is_waiting else json.loads(body or b"null")
            return found
    except urllib.error.HTTPError as exc:
        text = exc.read().decode(errors="replace").strip()
        raise click.ClickException(f"{url}: {text or exc}") from exc
    except OSError as exc:
        raise click.ClickException(
            f"{url}: {exc}. Is a worker of this machine listening there (HTTP_HOST, HTTP_PORT)?"
        ) from exc
