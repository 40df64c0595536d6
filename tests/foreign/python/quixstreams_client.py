"""Quix Streams: it sets murmur2 itself. `auto_create_topics=False`: it has topics to use, only."""

from __future__ import annotations

from quixstreams import Application  # type: ignore[import-not-found]  # not in .venv

from .common import POLL_S, Replies, plan

bootstrap, steps = plan()
for number, step in enumerate(steps):
    app = Application(
        broker_address=bootstrap,
        consumer_group=f"foreign-{step.replies or step.topic}",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel=None,
    )
    with app.get_producer() as producer:
        for record, (key, value) in enumerate(step.records):
            producer.produce(step.topic, value, key, headers=step.headers(record))
    if step.replies is None:
        continue
    replies = Replies(number, step)
    with app.get_consumer() as consumer:
        consumer.subscribe([step.replies])
        while replies.missing:
            message = consumer.poll(POLL_S)
            if message is not None and message.error() is None:
                replies.take(message.headers(), message.value())
