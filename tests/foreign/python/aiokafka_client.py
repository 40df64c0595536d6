"""aiokafka: its default partitioner is the Java client's, so there is nothing to set."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from .common import POLL_S, Replies, Step, plan


async def run(bootstrap: str, number: int, step: Step) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for record, (key, value) in enumerate(step.records):
            await producer.send(
                step.topic, value.encode(), key.encode(), headers=step.headers(record)
            )
    if step.replies is None:
        return
    replies = Replies(number, step)
    consumer = AIOKafkaConsumer(
        step.replies, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    async with consumer:
        while replies.missing:
            for messages in (await consumer.getmany(timeout_ms=int(POLL_S * 1000))).values():
                for message in messages:
                    replies.take(message.headers, message.value)


async def main() -> None:
    bootstrap, steps = plan()
    for number, step in enumerate(steps):
        await run(bootstrap, number, step)


asyncio.run(main())
