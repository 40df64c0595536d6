"""A TCP proxy before Cassandra that can be cut: one worker's only way to the nodes.

Node 127.0.0.N gets a second address, 127.0.1.N, with the same port; what comes there is passed on.
`behind_proxy.py` is the worker that uses it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

OPEN, BLACK_HOLE, RESET = "open", "black hole", "reset"
CHUNK_BYTES = 1 << 16


def behind(address: str) -> str:
    """Where the proxy of a node listens: 127.0.0.2 → 127.0.1.2."""
    return address.replace("127.0.0.", "127.0.1.", 1)


class Proxy:
    """Proxies of several servers, in a thread of their own; `cut` and `mend` act on all."""

    def __init__(self, servers: Iterable[tuple[str, int]]) -> None:
        self._servers = list(servers)
        self._mode = OPEN
        self._loop = asyncio.new_event_loop()
        self._mended = asyncio.Event()
        self._mended.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> Proxy:
        """Listen. Raises OSError where an address cannot be bound."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def cut(self, mode: str) -> None:
        """BLACK_HOLE: connections stay and nothing passes. RESET: they end, and so do new ones."""
        asyncio.run_coroutine_threadsafe(self._set(mode), self._loop).result()

    def mend(self) -> None:
        """Everything passes again; what a black hole held back goes on."""
        asyncio.run_coroutine_threadsafe(self._set(OPEN), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._listeners = [
            await asyncio.start_server(self._passing(host, port), behind(host), port)
            for host, port in self._servers
        ]

    async def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _set(self, mode: str) -> None:
        self._mode = mode
        if mode == BLACK_HOLE:
            self._mended.clear()
            return
        self._mended.set()
        if mode == RESET:
            for writer in self._writers:
                writer.transport.abort()

    def _passing(self, host: str, port: int):  # type: ignore[no-untyped-def]
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            ends = [writer]
            try:
                await self._mended.wait()
                if self._mode == RESET:
                    return
                up_reader, up_writer = await asyncio.open_connection(host, port)
                ends.append(up_writer)
                self._writers.update(ends)
                await asyncio.gather(self._copy(reader, up_writer), self._copy(up_reader, writer))
            except OSError:
                pass  # either side ended, or the node is down: so does the other
            finally:
                self._tasks.discard(task)
                self._writers.difference_update(ends)
                for end in ends:
                    end.transport.abort()

        return accept

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._mended.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError
