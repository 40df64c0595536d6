"""A client for producers and readers: `Client` for asyncio, `BlockingClient` for code without it.

    async with Client("127.0.0.1:9092", "read-states.replies.gateway-7") as client:
        offset = await client.ack(user_id=1, channel_id=2, message_id=3)
        reply = await client.get(1, after_offset=offset)

Whoever must hear of changes reads the change feed (`Client.changes`, in `feed.py`), or has a
`Mirror` keep the read states of some users current (`mirror.py`).

`connection.py` has the producers, the consumer of replies and the pending queries. `client.py` has
the events, the query and its pages.

Identifiers (from 1), versions and offsets (from 0) are integers, and timestamps are in ms.
"""

from .blocking import BlockingClient
from .client import Client
from .connection import QueryError, create_reply_topic
from .feed import ChangeFeed, FeedGapError
from .mirror import Changed, Mirror

__all__ = [
    "BlockingClient",
    "ChangeFeed",
    "Changed",
    "Client",
    "FeedGapError",
    "Mirror",
    "QueryError",
    "create_reply_topic",
]
