"""Compares two replies to one query, although the log may have gone on between them.

A reply is the fold of the log at the reply's version (Q3), and each read state in it has the
version of the record that changed it last. So of two replies the later one says which of its read
states have not changed since the earlier one, and the earlier one must have exactly these. Key
order, white space and compression are no differences. A number, a type, the order of the list, a
field that is missing, a header and an error's code are.

K1: two replies that are folds of one log are never `different`, whatever their versions.
K2: at the same version everything is compared, and whatever differs makes the pair `different`.
    Only `full` may differ: a service may give a complete reply where another gives a delta.
K3: at different versions, what the log up to the earlier one decides is compared: the read states
    that have not changed since then. So are names of fields, types of values and the order, which
    no record of the log can change.
K4: what the records between the two versions may explain is neither equal nor different. If there
    is such a thing and no difference, the pair is `not_comparable`, with each reason. So is a pair
    of which one reply has a read state that is newer than the reply: it is of no single position.

An error has no version. `invalid_query` follows from the query, and `reply_too_large` from the size
of the reply: in place of an answer either is a difference. The other codes follow from the moment,
so beside an answer they are not comparable, as are two different limits that a client is advised to
use. Two errors with different codes are a difference.
"""

from __future__ import annotations

from typing import Any

from readstates.schemas.replies import NOT_CAUGHT_UP, OVERLOADED, STORE_UNAVAILABLE

from .findings import MISSING, Comparison, Findings
from .said import Place, Rows, Said, number, rows_of, same

OF_THE_MOMENT = {STORE_UNAVAILABLE, NOT_CAUGHT_UP, OVERLOADED}

CHANGED = "changed between the two"  # a read state whose later version is above the earlier reply
GONE = "gone, or out of the selection, between the two"
AHEAD = "a read state is newer than its reply"  # then the reply is of no single position
TOTALS = "totals may have changed between the two"
PAGES = "the pages end at different read states"
OTHER = "a field that is not known may have changed between the two"
MOMENT = "one is an error of the moment: "
LIMIT = "the advised limits differ"

NO_LOG = 1 << 64  # the position of replies without versions: above every version
_OWN_RULES = {"version", "full", "read_states", "totals", "next"}
_OF_LOG = ("read_states", "totals", "next")
_TOTALS = ("read_states", "mentioned", "mentions")


def compare(query: Any, first: Said, second: Said) -> Comparison:
    """Compare the replies to `query`, which is its parsed value. O(read states)."""
    found = Findings()
    _headers(found, first, second)
    if not isinstance(first.body, dict) or not isinstance(second.body, dict):
        if not same(first.body, second.body):
            found.differ("reply", first.body, second.body)
    elif first.is_error or second.is_error:
        _errors(found, first.body, second.body)
    else:
        _answers(found, query if isinstance(query, dict) else {}, first, second)
    return found.result()


def _headers(found: Findings, first: Said, second: Said) -> None:
    if first.headers is None or second.headers is None:
        return
    if first.is_error != second.is_error:
        return  # the header that names the error's code is judged with the code
    for name in {**first.headers, **second.headers}:
        one, other = (
            repr(each.headers[name]) if name in each.headers else MISSING
            for each in (first, second)
            if each.headers is not None
        )
        if one != other:
            found.differ(f"header {name}", one, other)


# -- errors ---------------------------------------------------------------------------------------


def _errors(found: Findings, first: dict[str, Any], second: dict[str, Any]) -> None:
    one, other = first.get("error", MISSING), second.get("error", MISSING)
    if "error" in first and "error" in second:
        for name in {**first, **second}:
            values = first.get(name, MISSING), second.get(name, MISSING)
            if name != "error" and not same(*values):
                found.differ(name, *values)
        if not isinstance(one, dict) or not isinstance(other, dict):
            if not same(one, other):
                found.differ("error", one, other)
            return
        limits = one.get("limit"), other.get("limit")
        found.shapes("error.", {**one, "limit": None}, {**other, "limit": None})
        if one.get("code") != other.get("code"):
            found.differ("error.code", one.get("code"), other.get("code"))
        elif not same(*limits):
            found.unknown(LIMIT)
        return
    error = one if "error" in first else other
    code = error.get("code") if isinstance(error, dict) else None
    if code in OF_THE_MOMENT:
        found.unknown(f"{MOMENT}{code}")
    else:
        found.differ("error", one, other)


# -- answers --------------------------------------------------------------------------------------


def _answers(found: Findings, query: dict[str, Any], first: Said, second: Said) -> None:
    """Both are answers. Without any versions they count as being of the same moment."""
    known = {
        name: [each.body[name] for each in (first, second) if name in each.body]
        for name in {**first.body, **second.body}
    }
    for name, values in known.items():
        if len(values) == 1 and name != "next":
            found.differ(name, first.body.get(name, MISSING), second.body.get(name, MISSING))
        elif len({type(value) for value in values}) > 1:
            found.differ(name, *values)
    positions = first.version, second.version
    if (positions[0] is None) != (positions[1] is None):
        return  # the difference of `version` is noted, and nothing else can be compared
    here, there = (NO_LOG if position is None else position for position in positions)
    at_once, earlier = here == there, min(here, there)
    _full(found, query, first, second, earlier)
    for name in known.keys() - _OWN_RULES:
        values = known[name]
        if len(values) == 2 and not same(*values):
            if at_once or name == "user_id":
                found.differ(name, values[0], values[1], earlier)
            else:
                found.unknown(OTHER)
    rows = rows_of(first), rows_of(second)
    if rows[0] is None or rows[1] is None:
        lists = first.body.get("read_states"), second.body.get("read_states")
        if not same(*lists):
            found.differ("read_states", *lists, earlier)
        return
    pair = _Pair(found, query, (first, second), (rows[0], rows[1]), (here, there))
    pair.compare()


def _full(found: Findings, query: dict[str, Any], first: Said, second: Said, version: int) -> None:
    """A reply may be complete instead of a delta; otherwise `full` must be the same."""
    values = first.body.get("full"), second.body.get("full")
    is_delta_asked = query.get("since_version") is not None and query.get("mentioned") is not True
    if is_delta_asked or not all(type(value) is bool for value in values):
        return
    if values[0] != values[1]:
        found.differ("full", *values, version)


class _Pair:
    """Two answers whose read states can be read."""

    def __init__(
        self,
        found: Findings,
        query: dict[str, Any],
        said: tuple[Said, Said],
        rows: tuple[Rows, Rows],
        positions: tuple[int, int],
    ) -> None:
        self._found, self._query = found, query
        self._said, self._rows, self._positions = said, rows, positions
        self._earlier = min(positions)
        self._at_once = positions[0] == positions[1]

    def compare(self) -> None:
        self._order()
        if any(map(self._is_ahead, (0, 1))):
            parts = [[each.body.get(name) for name in _OF_LOG] for each in self._said]
            if not same(*parts):
                self._found.unknown(AHEAD)
        else:
            self._read_states()
            self._next()
            self._totals()
        self._all_shapes()

    def _is_ahead(self, which: int) -> bool:
        position = self._positions[which]
        return any(_version(row) > position for row in self._rows[which].by_place.values())

    def _read_states(self) -> None:
        first, second = self._rows
        for place in {**first.by_place, **second.by_place}:
            one, other = first.by_place.get(place), second.by_place.get(place)
            if one is not None and other is not None:
                self._both(place, one, other)
            elif one is not None:
                self._missing(place, one, 1)
            elif other is not None:
                self._missing(place, other, 0)

    def _both(self, place: Place, one: dict[str, Any], other: dict[str, Any]) -> None:
        if max(_version(one), _version(other)) > self._earlier:  # K4
            if self._found.shapes(f"{_field(place)}.", one, other, self._earlier):
                self._found.unknown(CHANGED)
            return
        for name in {**one, **other}:
            values = one.get(name, MISSING), other.get(name, MISSING)
            if name not in one or name not in other or not same(*values):
                self._found.differ(_field(place, name), *values, number(one.get("version")))

    def _missing(self, place: Place, row: dict[str, Any], where: int) -> None:
        """`row` is not in the reply `where`, but in the other one."""
        lacking, rows, position = self._said[where], self._rows[where], self._positions[where]
        version = _version(row)
        if not rows.covers(place) or (lacking.above >= 0 and version <= lacking.above):
            return  # the reply does not speak of it
        if version > position:
            self._found.unknown(CHANGED)
        elif position > self._positions[1 - where] and lacking.above < 0:
            self._found.unknown(GONE)
        else:  # it was there before and has not changed; and a delta leaves out no deletion
            values = (MISSING, row) if where == 0 else (row, MISSING)
            self._found.differ(_field(place), values[0], values[1], version)

    def _order(self) -> None:
        first, second = self._rows
        if first.is_ascending and second.is_ascending:
            return
        both = first.by_place.keys() & second.by_place.keys()
        orders = [[place for place in rows.order if place in both] for rows in self._rows]
        if first.is_ascending != second.is_ascending or orders[0] != orders[1]:
            one, other = ([_text(place) for place in rows.order] for rows in self._rows)
            self._found.differ("read_states: order", one, other, self._earlier)

    def _all_shapes(self) -> None:
        """Names and types are the same in all read states of both replies (K3).

        Where both replies have the read state, this has been looked at.
        """
        if self._found.is_different:
            return
        first, second = ({_shape(row): row for row in r.by_place.values()} for r in self._rows)
        if not first or not second or first.keys() == second.keys():
            return
        for shapes, others, turned in ((first, second, False), (second, first, True)):
            model = next(iter(others.values()))
            for shape, row in shapes.items():
                if shape not in others:
                    pair = (model, row) if turned else (row, model)
                    self._found.shapes("read_states: ", *pair, _version(row))

    def _next(self) -> None:
        first, second = self._rows
        one, other = (each.body.get("next", MISSING) for each in self._said)
        if first.is_whole_page != second.is_whole_page:
            self._found.differ("next", one, other, self._earlier)
        elif first.next != second.next:
            if self._at_once and self._said[0].above == self._said[1].above:
                self._found.differ("next", one, other, self._earlier)
            elif not self._at_once:
                self._found.unknown(PAGES)

    def _totals(self) -> None:
        first, second = (each.body.get("totals") for each in self._said)
        if not isinstance(first, dict) or not isinstance(second, dict):
            return
        if not self._found.shapes("totals.", first, second, self._earlier) or same(first, second):
            return
        if self._at_once or self._agrees(0, first) != self._agrees(1, second):
            for name in first:
                if first[name] != second[name]:
                    self._found.differ(f"totals.{name}", first[name], second[name], self._earlier)
        else:
            self._found.unknown(TOTALS)

    def _agrees(self, which: int, totals: dict[str, Any]) -> bool:
        """True if the totals are those of the reply's own read states, or if these are not all."""
        query, said, rows = self._query, self._said[which], self._rows[which]
        is_selected = query.get("channel_ids") is not None or query.get("mentioned") is True
        if is_selected or query.get("after") is not None or rows.next or said.above >= 0:
            return True
        found = [row.get("mention_count") for row in rows.by_place.values()]
        counts = [count for count in found if type(count) is int]
        if len(counts) < len(found):
            return True
        own = len(counts), sum(count > 0 for count in counts), sum(counts)
        return [totals.get(name) for name in _TOTALS] == list(own)


def _version(row: dict[str, Any]) -> int:
    """Of a read state; 0, which is before everything, if it has none."""
    return number(row.get("version")) or 0


def _shape(row: dict[str, Any]) -> frozenset[tuple[str, type]]:
    return frozenset((name, type(value)) for name, value in row.items())


def _text(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def _field(place: Place, name: str = "") -> str:
    return f"read_states[{_text(place)}]{name and '.'}{name}"
