"""Stands in for the producer of dead letters in a candidate, which writes none.

The live workers reject the same records and keep them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .dead_letter_producer import Rejected


class NoDeadLetters:
    """As `DeadLetterProducer`: `kept` is called in the loop's next iteration."""

    def send(
        self, _record: Rejected, _partition: int, _reason: str, kept: Callable[[], None]
    ) -> None:
        asyncio.get_running_loop().call_soon(kept)
