"""Serves `/metrics`, `/healthz`, `/readyz` and the console, by default on loopback only.

`/profile`, which `readstates profile` uses, answers only requests from a loopback address.

A connection gets one answer and lives for at most CONNECTION_S; at most CONNECTIONS_MAX are open.
So slow clients cannot take the file descriptors that the worker needs. If more come, the oldest
connections end: whoever holds connections open does not shut out the probes of an orchestrator,
which finish their request within milliseconds. However often /metrics is requested, the metrics are
read at most every METRICS_S, because queries wait meanwhile.

Requests for a name that is not the worker's are refused (`OwnNames`). Otherwise a page of a strange
site, opened in a browser that reaches this port, could have the site's name resolved to this
address (DNS rebinding), and would read the metrics as content of its own site.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..errors import ConfigError
from .console import page
from .profiler import SECONDS_MAX, ProfileError, Profiler

log = logging.getLogger(__name__)

CONNECTION_S = 10.0
CONNECTIONS_MAX = 64
LINE_BYTES_MAX = 4096  # of the request line and of each header; no request needs more
HEADERS_MAX = 64
METRICS_S = 0.25  # between two readings of the metrics; with 256 partitions, one takes 50 ms
PROFILE_HEADER = "read-states-profile"
DROPPED_LOG_S = 60.0  # between two log lines about connections that ended for others


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


class OwnNames:
    """The names for which the endpoints answer.

    These are addresses, `localhost`, HTTP_HOST, the machine's name, the names in HTTP_NAMES (and
    what ends with those that begin with a dot), and names without a dot, such as the service names
    of a compose file: nobody can register such a name and point it to an address.
    """

    def __init__(self, http_host: str = "", http_names: str = "") -> None:
        given = [name.strip().lower() for name in http_names.split(",") if name.strip()]
        self._names = {http_host.lower(), socket.gethostname().lower(), *given}
        self._ends = (".localhost", *(name for name in given if name.startswith(".")))

    def __contains__(self, host: object) -> bool:
        """True for the content of a Host header that names this worker; the port does not count."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        name = name.removesuffix(".")
        return "." not in name.strip(".") or name in self._names or self._belongs(name)

    def _belongs(self, name: str) -> bool:
        if name.endswith(self._ends):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Endpoints(Service):  # type: ignore[misc]
    """The HTTP server of a worker. `health` and `ready` say yes or no, and why."""

    def __init__(
        self,
        listening: socket.socket,
        health: Callable[[], tuple[bool, str]],
        ready: Callable[[], tuple[bool, str]],
        names: OwnNames | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._listening = listening
        self._names = OwnNames() if names is None else names
        self._health, self._ready = health, ready
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._dropped = 0  # connections that ended for others since this was logged
        self._dropped_logged = -DROPPED_LOG_S
        self._measuring: asyncio.Task[bytes] | None = None
        self._measured_at = -METRICS_S
        self._profiler = Profiler()

    async def on_start(self) -> None:
        app = web.Application(middlewares=[_one_answer, self._only_own_names])
        app.router.add_get("/", self._console)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_post("/profile", self._start_profile)
        app.router.add_get("/profile", self._profile)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            lingering_time=0,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=self._listening)
        log.info("http host=%s port=%d", *self._server.sockets[0].getsockname()[:2])

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        handler = server()
        loop = asyncio.get_running_loop()
        # `server` does not know the connection yet: the loop tells it in its next turn.
        loop.call_soon(loop.call_soon, self._end_the_oldest, server)
        loop.call_later(CONNECTION_S, _abort, handler)
        return handler

    def _end_the_oldest(self, server: web.Server) -> None:
        """Keep the newest CONNECTIONS_MAX connections."""
        for handler in server.connections[:-CONNECTIONS_MAX]:
            if handler.transport is not None and not handler.transport.is_closing():
                self._dropped += 1
                _abort(handler)
        if self._dropped and time.monotonic() - self._dropped_logged > DROPPED_LOG_S:
            self._dropped_logged = time.monotonic()
            log.warning(
                "http_connections_dropped count=%d: over %d were open at once; find out who holds "
                "connections to the HTTP port, and keep strangers away from it",
                self._dropped,
                CONNECTIONS_MAX,
            )
            self._dropped = 0

    @web.middleware
    async def _only_own_names(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if all(host in self._names for host in request.headers.getall("Host", [])):
            answer: web.StreamResponse = await handler(request)
            return answer
        return web.Response(
            text="no: the Host header does not name this worker. Use its address, or add the name "
            "to HTTP_NAMES\n",
            status=421,
        )

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

    async def _start_profile(self, request: web.Request) -> web.Response:
        """Begin a profile. A web page cannot send this: the browser would ask about the header."""
        refusal = _not_for_profiles(request)
        if refusal is not None:
            return refusal
        try:
            seconds = float(request.query.get("seconds", ""))
            self._profiler.start(max(0.0, seconds) if seconds < SECONDS_MAX else SECONDS_MAX)
        except ValueError:
            return web.Response(text="no: seconds must be a number\n", status=400)
        except ProfileError as exc:
            return web.Response(text=f"no: {exc}\n", status=409)
        return web.Response(status=202)

    async def _profile(self, request: web.Request) -> web.Response:
        """The last profile as JSON: [[[thread, function, …], ns], …]."""
        refusal = _not_for_profiles(request)
        if refusal is not None:
            return refusal
        found = self._profiler.result()
        if found is None:
            return web.Response(status=202 if self._profiler.is_running else 404)
        return web.json_response(list(found.items()))

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self._measuring is None:
            self._measuring = asyncio.create_task(self._measure())
        body = await asyncio.shield(self._measuring)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _measure(self) -> bytes:
        """The metrics of one moment, for all who have requested them until then."""
        await asyncio.sleep(self._measured_at + METRICS_S - time.monotonic())
        self._measuring, self._measured_at = None, time.monotonic()
        return generate_latest()


@web.middleware
async def _one_answer(request: web.Request, handler: Any) -> web.StreamResponse:
    response: web.StreamResponse = await handler(request)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.force_close()
    return response


def _not_for_profiles(request: web.Request) -> web.Response | None:
    """A refusal, unless the request comes from this machine and has the header of the command."""
    peer = request.transport and request.transport.get_extra_info("peername")
    if not peer or not ipaddress.ip_address(peer[0]).is_loopback:
        return web.Response(text="no: profiles are for this machine only\n", status=403)
    if PROFILE_HEADER not in request.headers:
        return web.Response(text=f"no: the header {PROFILE_HEADER} is missing\n", status=403)
    return None


def _abort(handler: web.RequestHandler) -> None:
    if handler.transport is not None:  # None: the connection has ended
        handler.transport.abort()  # close() would wait for a client that does not read


def _answer(state: tuple[bool, str]) -> web.Response:
    good, why = state
    return web.Response(text=f"{'ok' if good else 'no'}: {why}\n", status=200 if good else 503)
