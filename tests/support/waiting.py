"""How the tests wait: until something is so, or they fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 30.0  # no test is about speed: after this the service counts as hanging


def until(look: Callable[[], T | None], what: str, timeout_s: float = WAIT_S) -> T:
    """Asks again until the answer is truthy, and returns it."""
    end = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}; last: {found!r}"
        time.sleep(0.05)
