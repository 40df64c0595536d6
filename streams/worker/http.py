"""Serves `/metrics`, `/healthz`, `/readyz` and the console, by default on loopback only.

A connection gets one answer and lives for at most CONNECTION_S; at most CONNECTIONS_MAX are open.
So slow clients cannot take the file descriptors that the worker needs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..errors import ConfigError
from .console import page

log = logging.getLogger(__name__)

CONNECTION_S = 10.0
CONNECTIONS_MAX = 64


def listen(host: str, port: int) -> socket.socket:
    """Bind the port before the worker gets partitions. Raises ConfigError."""
    try:
        return socket.create_server((host, port), family=_family(host))
    except OSError as exc:
        raise ConfigError(
            f"HTTP_HOST, HTTP_PORT: cannot listen on {host}:{port}: {exc.strerror}. Every worker "
            "of a machine needs a port of its own; 0 takes any free one"
        ) from exc


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Endpoints(Service):  # type: ignore[misc]
    """The HTTP server of a worker. `health` and `ready` say yes or no, and why."""

    def __init__(
        self,
        listening: socket.socket,
        health: Callable[[], tuple[bool, str]],
        ready: Callable[[], tuple[bool, str]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._listening = listening
        self._health, self._ready = health, ready
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._coming = 0  # connections accepted in this turn of the loop

    async def on_start(self) -> None:
        app = web.Application(middlewares=[_one_answer])
        app.router.add_get("/", self._console)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, lingering_time=0)
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=self._listening)
        log.info("http host=%s port=%d", *self._server.sockets[0].getsockname()[:2])

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        if len(server.connections) + self._coming >= CONNECTIONS_MAX:
            return _Refusal()
        handler = server()
        loop = asyncio.get_running_loop()
        # `server` counts a connection only in the loop's next turn, and one turn may accept many
        self._coming += 1
        loop.call_soon(self._has_come)
        loop.call_later(CONNECTION_S, _abort, handler)
        return handler

    def _has_come(self) -> None:
        self._coming -= 1

    async def on_stop(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _console(self, _request: web.Request) -> web.Response:
        body, headers = page()
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _answer(self._health())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def _one_answer(request: web.Request, handler: Any) -> web.StreamResponse:
    response: web.StreamResponse = await handler(request)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.force_close()
    return response


def _abort(handler: web.RequestHandler) -> None:
    if handler.transport is not None:  # None: the connection has ended
        handler.transport.abort()  # close() would wait for a client that does not read


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()  # nothing is waiting to be sent


def _answer(state: tuple[bool, str]) -> web.Response:
    good, why = state
    return web.Response(text=f"{'ok' if good else 'no'}: {why}\n", status=200 if good else 503)
