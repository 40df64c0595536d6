"""The peer of `query_rate` that reads Redis: a Kafka consumer that answers queries with HMGET.

    python -m readstates.ops.bench.redis_agent BROKER TOPIC GROUP STATE_DIR

Redis has what the service's table has: a hash per user, and in it two fields per channel. Each
batch of queries is one pipeline. A reply says the same as the service's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, Message, Producer

from readstates.schemas.headers import HEADER_FAUST_CORRELATION_ID, HEADER_FAUST_REPLY_TOPIC

from .asking import PRODUCER
from .query_rate import LAST_MESSAGE, channels_by_user
from .redis_store import running

BATCH = 64


def main() -> None:
    """Answer until killed."""
    broker, topic, group = sys.argv[1:4]
    producer = Producer({"bootstrap.servers": broker, **PRODUCER})
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    with running(Path(sys.argv[4])) as (client, _server):
        for user, channels in channels_by_user().items():
            fields = {str(channel): LAST_MESSAGE for channel in channels}
            client.hset(user, mapping=fields | {f"{channel}:mentions": 0 for channel in channels})
        consumer.subscribe([topic])
        while True:
            first = consumer.poll(0.05)
            batch = [] if first is None else [first, *consumer.consume(BATCH, 0)]
            _answer(client, producer, [m for m in batch if m.error() is None])
            producer.poll(0)


def _answer(client: Any, producer: Producer, batch: list[Message]) -> None:
    queries = [orjson.loads(message.value()) for message in batch]
    with client.pipeline(transaction=False) as pipeline:
        for query in queries:
            asked = query["channel_ids"]
            pipeline.hmget(
                query["user_id"], [*asked, *(f"{channel}:mentions" for channel in asked)]
            )
        answers = pipeline.execute()
    for message, query, values in zip(batch, queries, answers, strict=True):
        asked = query["channel_ids"]
        found = [
            {
                "channel_id": channel,
                "read_state_type": 0,
                "last_message_id": last.decode(),
                "mention_count": int(mentions),
                "last_mention_id": "0",
                "last_pin_timestamp": 0,
                "flags": 0,
                "last_viewed": 0,
                "version": "0",
            }
            for channel, last, mentions in zip(
                asked, values[: len(asked)], values[len(asked) :], strict=True
            )
            if last is not None
        ]
        value = {"user_id": query["user_id"], "version": "0", "full": True, "read_states": found}
        headers = dict(message.headers() or ())
        correlation_id = headers[HEADER_FAUST_CORRELATION_ID]
        producer.produce(
            headers[HEADER_FAUST_REPLY_TOPIC].decode(),
            orjson.dumps({"key": correlation_id.decode(), "value": value}),
            message.key(),
            headers=[(HEADER_FAUST_CORRELATION_ID, correlation_id)],
        )


if __name__ == "__main__":
    main()
