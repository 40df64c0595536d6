"""Each invariant of the worker has one home, and is cited at the code that keeps it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

STREAMS = Path(__file__).parents[3] / "streams"
HOMES = {
    **dict.fromkeys(("R1", "R2", "R3", "R4", "R5", "R6"), "worker/rebalance.py"),
    **dict.fromkeys(("F1", "F2"), "partition/changes.py"),
    **dict.fromkeys(("Q1", "Q2", "Q3"), "worker/query_intake.py"),
}


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def _comments(path: Path) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
    return "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)


@pytest.mark.parametrize("name", HOMES)
def test_it_is_stated_once(name: str) -> None:
    stated = [
        path.relative_to(STREAMS).as_posix()
        for path in STREAMS.rglob("*.py")
        if re.search(rf"^{name}: ", _docstring(path), re.MULTILINE)
    ]
    assert stated == [HOMES[name]]


@pytest.mark.parametrize("name", HOMES)
def test_the_code_that_keeps_it_cites_it(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", _comments(path)) for path in STREAMS.rglob("*.py"))


@pytest.mark.parametrize(
    ("module", "steps"), [("worker/opening.py", "12345"), ("worker/rebalance.py", "0123467")]
)
def test_the_numbered_steps_stand_at_the_code(module: str, steps: str) -> None:
    comments = _comments(STREAMS / module)
    assert sorted(re.findall(r"Step (\d)\.", comments)) == list(steps)
    stated = re.findall(r"^ ?(\d)\. ", _docstring(STREAMS / module), re.MULTILINE)
    assert sorted(stated) == list(steps)
