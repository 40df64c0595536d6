"""Reads a user page by page, as a client does that follows `next` and an error's `limit`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.support.waiting import until
from tests.support.wire import Reply, TopicReader, Wire, check_form, reply_of

PAGES_MAX = 1000  # whoever takes more goes round in circles


class Reader:
    """Asks for replies in a topic of one's own."""

    def __init__(self, wire: Wire, topic: str) -> None:
        self._wire, self.topic = wire, topic
        self._reader = TopicReader(wire.bootstrap, topic, 1)
        self._asked = 0

    def ask(self, user: int, body: dict[str, Any]) -> bytes:
        """Send a query; returns its correlation ID."""
        self._asked += 1
        wanted = b"%s %d" % (self.topic.encode(), self._asked)
        headers = [
            ("kafka_replyTopic", self.topic.encode()),
            ("kafka_correlationId", wanted),
        ]
        return self._wire.ask(user, body, headers, correlation_id=wanted, deadline_s=20)

    def next(self) -> Reply:
        """The next reply that comes."""

        def look() -> Reply | None:
            message = self._reader.poll(0.2)
            return None if message is None else reply_of(message)

        return until(look, f"a reply in {self.topic}")

    def get(self, user: int, **body: Any) -> Reply:
        """A query's reply, which may be an error."""
        wanted = self.ask(user, body)
        reply = self.next()
        assert reply.headers["kafka_correlationId"] == wanted
        return reply

    def pages(self, user: int, limit: int, **body: Any) -> list[Reply]:
        """All pages; none of them may be an error."""

        def get(**asked: Any) -> Reply:
            reply = self.get(user, **asked)
            assert reply.error is None, reply.value
            check_form(reply, user)
            return reply

        return _pages(get, limit, body)

    def close(self) -> None:
        self._reader.close()


def pages_of(wire: Wire, user: int, limit: int, **body: Any) -> list[Reply]:
    """The same, with replies in the topic that all tests share."""
    return _pages(partial(wire.get, user), limit, body)


def _pages(get: Callable[..., Reply], limit: int, body: dict[str, Any]) -> list[Reply]:
    found: list[Reply] = []
    while len(found) < PAGES_MAX:
        found.append(get(limit=limit, **body))
        assert len(found[-1].states) <= limit
        if "next" not in found[-1].value:
            return found
        body = {**body, "after": found[-1].value["next"]}
    raise AssertionError(f"more than {PAGES_MAX} pages")


def limit_of(reply: Reply) -> int:
    """The limit that an error reply_too_large advises."""
    assert reply.error == "reply_too_large", reply.value
    limit = reply.value["error"]["limit"]
    assert type(limit) is int
    assert f'"limit": {limit}' in reply.value["error"]["message"]
    return limit


def states_of(pages: list[Reply]) -> list[dict[str, Any]]:
    return [state for page in pages for state in page.states]
