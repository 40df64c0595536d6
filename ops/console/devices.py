"""A picture of two devices of a user, on the page of the example of a gateway."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from .browser import Browser

WIDTH, HEIGHT, GAP, SCALE = 330, 210, 16, 1.5
CLICK = "document.querySelector(\"li[data-channel='%s'] button:nth-of-type(%d)\").click()"
MENTION, READ = 1, 2  # the buttons of a channel
SHOWN_TIMEOUT_S = 30.0


async def photograph(folder: Path, url: str) -> bytes:
    """Mentions arrive, one device reads a channel, and both show what is left. A PNG."""
    async with Browser(folder / "phone") as phone, Browser(folder / "desk") as desk:
        for window in (phone, desk):
            await window.look(WIDTH, HEIGHT, scale=SCALE)
            await window.open(f"{url}/?user=42")
            await _wait_for(window, "connection", "connected")
        for channel in (7, 7, 8, 9):
            await phone.evaluate(CLICK % (channel, MENTION))
        await _wait_for(desk, "total", "4")
        await desk.evaluate(CLICK % (8, READ))
        for window in (phone, desk):
            await _wait_for(window, "total", "3")
        shots = [base64.b64encode(await window.picture()).decode() for window in (phone, desk)]
        images = "".join(f'<img width="{WIDTH}" src="data:image/png;base64,{s}">' for s in shots)
        style = f"margin:{GAP}px;display:flex;gap:{GAP}px;background:#bbb"
        await desk.look(2 * WIDTH + 3 * GAP, HEIGHT + 2 * GAP, scale=SCALE)
        await desk.write(f'<!doctype html><body style="{style}">{images}</body>')
        await asyncio.sleep(1)  # until the images are drawn
        return await desk.picture()


async def _wait_for(window: Browser, part: str, text: str) -> None:
    async with asyncio.timeout(SHOWN_TIMEOUT_S):
        while True:
            if await window.evaluate(f"document.getElementById('{part}')?.textContent") == text:
                return
            await asyncio.sleep(0.1)
