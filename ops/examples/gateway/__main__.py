"""`python -m readstates.ops.examples.gateway`: the gateway on a port, until it is told to end."""

from __future__ import annotations

import asyncio
import signal

import click
from aiohttp import web

from readstates.streams.client import Client

from .gateway import Gateway

BACKLOG = 1024  # connections that wait to be taken: after a restart all devices come at once


async def serve(client: Client, host: str, port: int) -> None:
    """Serve until SIGTERM, or until the gateway fails: then this raises what it failed with."""
    async with client, client.mirror() as mirror:
        gateway = Gateway(client, mirror)
        app = web.Application()
        app.add_routes([web.get("/", gateway.page), web.get("/devices", gateway.connect)])
        app.on_shutdown.append(gateway.close)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        running = asyncio.create_task(gateway.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
            click.echo(f"http://{host}:{runner.addresses[0][1]}/?user=42")
            await asyncio.wait([running])
        finally:
            running.cancel()
            await runner.cleanup()
    if not running.cancelled():
        running.result()
    click.echo("stopped")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, help="0: a free one, which is printed.")
@click.option("--name", default="gateway", show_default=True, help="End of the reply topic's name.")
@click.option("--bootstrap", envvar="READ_STATES_KAFKA_BOOTSTRAP", default="127.0.0.1:9092")
@click.option("--topic-prefix", envvar="READ_STATES_TOPIC_PREFIX", default="read-states")
def main(host: str, port: int, name: str, bootstrap: str, topic_prefix: str) -> None:
    """Run an example of a gateway; workers need CHANGES=on."""
    replies = f"{topic_prefix}.replies.{name}"
    client = Client(bootstrap, replies, topic_prefix=topic_prefix, create_reply_topic=True)
    asyncio.run(serve(client, host, port))


if __name__ == "__main__":
    main()
