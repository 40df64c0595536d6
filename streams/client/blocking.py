"""`Client` for code without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from readstates.schemas.changes import Change
from readstates.schemas.read_state import ReadState
from readstates.schemas.replies import Totals

from .client import Client
from .mirror import Changed, Key, Mirror

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


class BlockingIterator(Generic[T]):
    """An asynchronous iterator, such as a feed, for code without asyncio; use it in a `with`.

    `wait` runs a coroutine on the client's event loop and returns its result.
    """

    def __init__(self, wait: Callable[[Coroutine[Any, Any, Any]], Any], source: Any) -> None:
        self._wait, self.source = wait, source

    def __enter__(self) -> Self:
        self._wait(self.source.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self._wait(self.source.__aexit__(*exc))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            found: T = self._wait(self._next())
        except StopAsyncIteration:
            raise StopIteration from None
        return found

    async def _next(self) -> T:
        found: T = await anext(self.source)
        return found


class BlockingMirror(BlockingIterator[Changed]):
    """`Mirror` for code without asyncio."""

    source: Mirror

    def follow(self, user_id: int) -> Mapping[Key, ReadState]:
        """See `Mirror.follow`."""
        states: Mapping[Key, ReadState] = self._wait(self.source.follow(user_id))
        return states

    def forget(self, user_id: int) -> None:
        """See `Mirror.forget`."""
        self._wait(_call(self.source.forget, user_id))

    def read_states(self, user_id: int) -> Mapping[Key, ReadState]:
        """See `Mirror.read_states`."""
        states: Mapping[Key, ReadState] = self._wait(_call(self.source.read_states, user_id))
        return states

    def totals(self, user_id: int) -> Totals:
        """See `Mirror.totals`."""
        totals: Totals = self._wait(_call(self.source.totals, user_id))
        return totals


async def _call(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function on the event loop."""
    return function(*args, **kwargs)


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
        """The result of a coroutine that runs on the client's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def changes(self, *args: Any, **kwargs: Any) -> BlockingIterator[Change]:
        """`with client.changes() as changes: for change in changes`; see `Client.changes`."""
        return BlockingIterator(self._wait, self._client.changes(*args, **kwargs))

    def mirror(self) -> BlockingMirror:
        """See `Client.mirror`. Ask for the next change in one thread only."""
        return BlockingMirror(self._wait, self._client.mirror())

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
