"""How the tests wait: until something is so, or they fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 30.0  # no test is about speed: after this the service counts as hanging
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 0.25  # between two looks: a look may cost a server much


def until(
    look: Callable[[], T | None],
    what: str,
    timeout_s: float = WAIT_S,
    *,
    last_pause_s: float = LAST_PAUSE_S,
) -> T:
    """Asks again, less and less often, until the answer is truthy; returns it."""
    end = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}; last: {found!r}"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, last_pause_s)
