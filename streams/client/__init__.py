"""A client for producers and readers: `Client` for asyncio, `BlockingClient` for code without it.

    async with Client("127.0.0.1:9092", "read-states.replies.gateway-7") as client:
        offset = await client.ack(user_id=1, channel_id=2, message_id=3)
        reply = await client.get(1, after_offset=offset)

`connection.py` has the producers, the consumer of replies and the pending queries. `client.py` has
the events, the query and its pages.

Identifiers (from 1), versions and offsets (from 0) are integers, and timestamps are in ms.
"""

from .blocking import BlockingClient
from .client import Client
from .connection import QueryError, create_reply_topic

__all__ = ["BlockingClient", "Client", "QueryError", "create_reply_topic"]
