"""What a comparison finds: differences, and reasons for which something could not be compared."""

from __future__ import annotations

from typing import Any, NamedTuple

EQUAL = "equal"
DIFFERENT = "different"
NOT_COMPARABLE = "not_comparable"
RESULTS = (EQUAL, DIFFERENT, NOT_COMPARABLE)

MISSING = "(missing)"  # in place of the value of a field that one reply does not have
VERSION_MAX = (1 << 63) - 1
DIFFERENCES_MAX = 100  # that are kept of one pair


class Difference(NamedTuple):
    """A field that differs, in both replies; `version`: of the record of the log to look at."""

    field: str
    first: Any
    second: Any
    version: int | None


class Comparison(NamedTuple):
    """The result for a pair of replies.

    `differences`: at most DIFFERENCES_MAX. `reasons`: why something was not compared, each once.
    """

    result: str
    differences: list[Difference]
    reasons: list[str]


class Findings:
    """Collects what is found in a pair."""

    def __init__(self) -> None:
        self._differences: list[Difference] = []
        self._reasons: set[str] = set()

    @property
    def is_different(self) -> bool:
        return bool(self._differences)

    def differ(self, field: str, first: Any, second: Any, version: int | None = None) -> None:
        version = None if version is None or version > VERSION_MAX else version
        if len(self._differences) < DIFFERENCES_MAX:
            self._differences.append(Difference(field, first, second, version))

    def unknown(self, reason: str) -> None:
        """The replies do not say the same here, and the log between them may be why."""
        self._reasons.add(reason)

    def shapes(self, field: str, first: Any, second: Any, version: int | None = None) -> bool:
        """Note where names of fields, or types of values, differ; True if there is none.

        `first` and `second` are objects.
        """
        alike = True
        for name in {**first, **second}:
            one, other = first.get(name, MISSING), second.get(name, MISSING)
            if name not in first or name not in second or type(one) is not type(other):
                self.differ(f"{field}{name}", one, other, version)
                alike = False
        return alike

    def result(self) -> Comparison:
        result = NOT_COMPARABLE if self._reasons else EQUAL
        if self._differences:
            result = DIFFERENT
        return Comparison(result, self._differences, sorted(self._reasons))
