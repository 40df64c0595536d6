"""The peer of `query_rate`: a stock Faust agent that answers `agent.ask` from a dict.

    python -m readstates.ops.bench.stock_agent BROKER TOPIC GROUP STATE_DIR

The dict holds what the service's table holds, and a reply says the same as the service's.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import faust
import orjson

from .query_rate import LAST_MESSAGE, channels_by_user


def main() -> None:
    """Answer until killed."""
    broker, topic, group = sys.argv[1:4]
    app = faust.App(
        group,
        broker=f"kafka://{broker}",
        autodiscover=False,
        consumer_auto_offset_reset="earliest",
        datadir=sys.argv[4],
        store="memory://",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
    )
    states = {
        user: dict.fromkeys(channels, (LAST_MESSAGE, 0, 0, 0, 0, 0, number))
        for number, (user, channels) in enumerate(channels_by_user().items())
    }
    queries = app.topic(topic, value_type=bytes, value_serializer="raw", internal=True)

    @app.agent(queries, use_reply_headers=True)  # type: ignore[untyped-decorator]
    async def answer(stream: Any) -> AsyncIterator[dict[str, Any]]:
        async for value in stream:
            query = orjson.loads(value)
            found = []
            user = states[int(query["user_id"])]
            for channel in query["channel_ids"]:
                state = user.get(int(channel))
                if state is None:
                    continue
                last, count, mention, pins, flags, viewed, version = state
                found.append(
                    {
                        "channel_id": channel,
                        "read_state_type": 0,
                        "last_message_id": str(last),
                        "mention_count": count,
                        "last_mention_id": str(mention),
                        "last_pin_timestamp": pins,
                        "flags": flags,
                        "last_viewed": viewed,
                        "version": str(version),
                    }
                )
            yield {
                "user_id": query["user_id"],
                "version": "0",
                "full": True,
                "read_states": found,
            }

    faust.Worker(
        app, loglevel="WARNING", redirect_stdouts=False, quiet=True
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
