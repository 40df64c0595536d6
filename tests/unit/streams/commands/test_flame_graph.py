"""A flame graph's boxes are as wide as their shares, each above its caller."""

from __future__ import annotations

from xml.etree import ElementTree

from readstates.streams.commands.flame_graph import MARGIN, ROW, WIDTH, flame_graph

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float]  # x, y, width


def boxes(text: str) -> dict[str, Box]:
    found: dict[str, Box] = {}
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert title.text is not None
        assert box is not None
        name = title.text.rpartition(": ")[0]
        assert name not in found
        x, y, width = (float(box.attrib[each]) for each in ("x", "y", "width"))
        found[name] = x, y, width
    return found


def test_boxes_are_as_wide_as_their_shares() -> None:
    found = boxes(
        flame_graph(
            {("loop", "a", "b"): 300, ("loop", "a", "c"): 100, ("loop",): 100, ("reader",): 500},
            "a title & more",
        )
    )
    whole = WIDTH - 2 * MARGIN
    shares = {name: round(width / whole, 3) for name, (_, _, width) in found.items()}
    assert shares == {"all": 1, "loop": 0.5, "a": 0.4, "b": 0.3, "c": 0.1, "reader": 0.5}
    for caller, callee in (("all", "loop"), ("all", "reader"), ("loop", "a"), ("a", "b")):
        x, y, width = found[callee]
        assert y == found[caller][1] - ROW
        assert found[caller][0] <= x
        assert x + width <= found[caller][0] + found[caller][2] + 0.1
    assert found["c"][0] >= found["b"][0] + found["b"][2] - 0.1, "side by side"


def test_names_are_text_and_nothing_else() -> None:
    text = flame_graph({("m.<lambda>", 'x"&<script>'): 5}, "<script>")
    assert "<script>" not in text
    assert "m.<lambda>" in boxes(text)


def test_what_is_too_narrow_and_nothing_at_all() -> None:
    assert set(boxes(flame_graph({("a",): 10**9, ("b",): 1}, ""))) == {"all", "a"}
    assert boxes(flame_graph({}, "")) == {}
