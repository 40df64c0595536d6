"""`/metrics`, `/healthz` and `/readyz`, on loopback unless told otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

log = logging.getLogger(__name__)


class Endpoints(Service):  # type: ignore[misc]
    """The HTTP server of a worker. `health` and `ready` say yes or no, and why."""

    def __init__(
        self,
        host: str,
        port: int,
        health: Callable[[], tuple[bool, str]],
        ready: Callable[[], tuple[bool, str]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._address = host, port
        self._health, self._ready = health, ready
        self._runner: web.AppRunner | None = None

    async def on_start(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", lambda _: _answer(self._health()))
        app.router.add_get("/readyz", lambda _: _answer(self._ready()))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._address)
        await site.start()
        server: Any = site._server
        log.info("http host=%s port=%d", *server.sockets[0].getsockname()[:2])

    async def on_stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _answer(state: tuple[bool, str]) -> web.Response:
    good, why = state
    return web.Response(text=f"{'ok' if good else 'no'}: {why}\n", status=200 if good else 503)
