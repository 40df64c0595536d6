"""confluent-kafka-python, which is librdkafka: CRC32 unless `partitioner` is set."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer

from .common import POLL_S, Replies, plan

bootstrap, steps = plan()
for number, step in enumerate(steps):
    setting = {"partitioner": "murmur2_random"} if step.setting else {}
    producer = Producer({"bootstrap.servers": bootstrap, **setting})
    for record, (key, value) in enumerate(step.records):
        producer.produce(step.topic, value, key, headers=step.headers(record))
    producer.flush()
    if step.replies is None:
        continue
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"foreign-{step.replies}",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([step.replies])
    replies = Replies(number, step)
    while replies.missing:
        message = consumer.poll(POLL_S)
        if message is not None and message.error() is None:
            replies.take(message.headers(), message.value())
    consumer.close()
