"""What a topic's setting must be, so that nothing is lost or wrong."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """The rule of a topic setting: it must be `value`, unless one of the flags is set.

    `name`: of the deviation if it does not hold.
    """

    name: str
    value: str
    why: str
    at_least: bool = False  # `value` or more, also without a limit (-1)
    limited: bool = False  # any limit; `init` sets `value` where there is none (-1)
    at_most: int = 0  # `value` or more, up to this

    @property
    def said(self) -> str:
        if self.limited:
            return f"a limit, such as {self.value}"
        if self.at_most:
            return f"{self.value} … {self.at_most}"
        return f"at least {self.value}" if self.at_least else repr(self.value)

    def holds(self, value: str) -> bool:
        if self.limited:
            return int(value) >= 0
        if self.at_most:
            return int(self.value) <= int(value) <= self.at_most
        if self.at_least:
            return int(value) < 0 or int(value) >= int(self.value)
        return value == self.value
