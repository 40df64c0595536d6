"""Counts the results of comparisons, and keeps examples of what was not equal."""

from __future__ import annotations

from collections import Counter
from typing import Any, BinaryIO, NamedTuple

import orjson

from readstates.schemas.version import OFFSET_BITS, offset_of

from .compare import compare
from .findings import DIFFERENT, EQUAL, NOT_COMPARABLE, RESULTS, Comparison, Difference
from .said import Said

EXAMPLES_MAX = 1_000  # of each result; the rest are only counted
VALUE_TEXT_MAX = 2_000  # characters of a value in a line for people


class Sides(NamedTuple):
    """What the two replies of a pair are called."""

    first: str
    second: str


class Tally:
    """Counts pairs; writes examples as JSON lines into `examples`, if that is given.

    An example has the query, both replies, and each difference: field, both values, and the offset
    of the update to look at.
    """

    def __init__(self, names: Sides, examples: BinaryIO | None = None) -> None:
        self.names = names
        self.counts = dict.fromkeys(RESULTS, 0)
        self.reasons: Counter[str] = Counter()  # pairs that are not comparable, by reason
        self.fields: Counter[str] = Counter()  # pairs that differ, by field
        self.first_difference: Difference | None = None
        self._examples = examples
        self._written = dict.fromkeys(RESULTS, 0)

    def compare(self, query: Any, partition: int, first: Said, second: Said) -> Comparison:
        """Compare a pair and count it."""
        found = compare(query, first, second)
        self._count(query, partition, first.body, second.body, found)
        return found

    def not_comparable(
        self, query: Any, partition: int, first: Any, second: Any, reason: str
    ) -> None:
        """Count a pair of which the caller knows that nothing can be said of it."""
        self._count(query, partition, first, second, Comparison(NOT_COMPARABLE, [], [reason]))

    def _count(
        self, query: Any, partition: int, first: Any, second: Any, found: Comparison
    ) -> None:
        self.counts[found.result] += 1
        if found.result == EQUAL:
            return
        if found.result == DIFFERENT:
            self.fields.update({_kind(each.field) for each in found.differences})
            self.first_difference = self.first_difference or found.differences[0]
        else:
            self.reasons.update(found.reasons)
        if self._examples is None or self._written[found.result] >= EXAMPLES_MAX:
            return
        self._written[found.result] += 1
        example = {
            "result": found.result,
            "partition": partition,
            "query": query,
            "differences": [self._as_object(each) for each in found.differences],
            "reasons": found.reasons,
            self.names.first: first,
            self.names.second: second,
        }
        self._examples.write(orjson.dumps(example, default=str) + b"\n")
        self._examples.flush()

    def _as_object(self, difference: Difference) -> dict[str, Any]:
        version = difference.version
        return {
            "field": difference.field,
            self.names.first: difference.first,
            self.names.second: difference.second,
            "version": None if version is None else str(version),
            "offset": None if version is None else str(offset_of(version)),
        }

    def summary(self) -> dict[str, Any]:
        """All counts, for JSON."""
        return {
            **self.counts,
            "reasons": dict(self.reasons.most_common()),
            "fields": dict(self.fields.most_common()),
        }

    def lines(self) -> list[str]:
        """All counts, for people."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        found = [counts.replace(NOT_COMPARABLE, "not comparable")]
        found += [f"  different: {name}: {count:,}" for name, count in self.fields.most_common()]
        found += [f"  not comparable: {why}: {n:,}" for why, n in self.reasons.most_common()]
        if self.first_difference is not None:
            first = self.first_difference
            values = (
                f"{name} {str(value)[:VALUE_TEXT_MAX]}"
                for name, value in zip(self.names, (first.first, first.second), strict=True)
            )
            found.append(f"the first difference: {first.field}: {', '.join(values)}")
            if first.version is not None:
                epoch, offset = first.version >> OFFSET_BITS, offset_of(first.version)
                where = f" of epoch {epoch}" if epoch else ""
                found.append(f"  the update to look at has offset {offset}{where}")
        return found


def _kind(field: str) -> str:
    """A field without the read state that it is of."""
    start, bracket, rest = field.partition("[")
    return start + rest.partition("]")[2] if bracket else field
