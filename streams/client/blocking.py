"""`Client` for code without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from .client import Client

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """The same method, waiting for its result."""

    @wraps(method)
    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._client, *args, **kwargs))

    return call


class BlockingClient:
    """`Client` for code without asyncio: the same methods, each of which waits for its result.

    Use it as a context manager, from any thread; its event loop runs in a thread of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = Client(*args, **kwargs)

    def __enter__(self) -> BlockingClient:
        try:
            self._wait(self._client.start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self._wait(self._client.close())
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    get = _blocking(Client.get)
    publish = _blocking(Client.publish)
    ack = _blocking(Client.ack)
    mark_unread = _blocking(Client.mark_unread)
    bulk_ack = _blocking(Client.bulk_ack)
    mention = _blocking(Client.mention)
    retract_mention = _blocking(Client.retract_mention)
    pins_ack = _blocking(Client.pins_ack)
    set_options = _blocking(Client.set_options)
    merge = _blocking(Client.merge)
    delete = _blocking(Client.delete)
    delete_user = _blocking(Client.delete_user)
    restore_user = _blocking(Client.restore_user)
