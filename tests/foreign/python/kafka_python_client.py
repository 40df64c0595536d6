"""kafka-python: its default partitioner is the Java client's, so there is nothing to set."""

from __future__ import annotations

from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-not-found]  # not in .venv

from .common import POLL_S, Replies, plan

bootstrap, steps = plan()
for number, step in enumerate(steps):
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for record, (key, value) in enumerate(step.records):
        producer.send(step.topic, value.encode(), key.encode(), headers=step.headers(record))
    producer.flush()
    producer.close()
    if step.replies is None:
        continue
    consumer = KafkaConsumer(
        step.replies, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    replies = Replies(number, step)
    while replies.missing:
        for messages in consumer.poll(timeout_ms=int(POLL_S * 1000)).values():
            for message in messages:
                replies.take(message.headers, message.value)
    consumer.close()
