"""Every command that an error or a runbook tells somebody to run is one that exists, as written.

A command in an error stands behind a colon: `run: readstates init --partitions 8`. What the program
fills in is an 8 here.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from readstates.streams import cli
from tests.support.promql import OPS

ROOT = OPS.parent
MODULES = sorted(
    path for name in ("streams", "cache", "schemas", "ops") for path in (ROOT / name).rglob("*.py")
)
PAGES = sorted((OPS / "runbooks").glob("*.md"))
TOLD = re.compile(r"(?<!usage): (readstates [^\n]+)")
FILLED = "8"


def texts(path: Path) -> Iterator[str]:
    """The texts of a module, each in one piece, with FILLED where the program fills something in.

    Docstrings are among them, because they are the commands' help.
    """
    parts: set[int] = set()  # of a larger text
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else FILLED
                for part in node.values
            )
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            yield node.value


def told(text: str) -> Iterator[list[str]]:
    """The commands that a text tells somebody to run; each ends where its sentence goes on."""
    for found in TOLD.finditer(" ".join(text.split())):
        yield words(found[1])


def words(line: str) -> list[str]:
    """The words of a command in prose: the commands' names, then options and their values."""
    taken: list[str] = []
    command: click.Command = cli.main
    needs_value = False
    for word in line.split()[1:]:
        bare = word.rstrip(".,;:)")
        options = {o: p for p in command.params for o in p.opts}
        child = (
            command.get_command(click.Context(command), bare)
            if isinstance(command, click.Group)
            else None
        )
        if not (needs_value or child or bare.startswith("--") or bare == FILLED):
            break
        taken.append(bare)
        option = options.get(bare)
        needs_value = isinstance(option, click.Option) and not (option.is_flag or needs_value)
        command = child or command
        if bare != word:
            break
    return taken


def check(arguments: list[str]) -> None:
    """Parse a command line without running it; raises click.UsageError if it is wrong."""
    command: click.Command = cli.main
    arguments = list(arguments)
    names = []
    while isinstance(command, click.Group) and arguments:
        names.append(arguments.pop(0))
        found = command.get_command(click.Context(command), names[-1])
        assert found is not None, names
        command = found
    assert names, "only the program's name"
    if arguments[-1:] != ["--help"]:
        command.make_context(" ".join(names), arguments)


def advice() -> list[tuple[str, list[str]]]:
    return [
        (f"{path.relative_to(ROOT)}: {' '.join(command)}", command)
        for path in MODULES
        for text in texts(path)
        for command in told(text)
    ]


ADVICE = advice()


@pytest.mark.parametrize("command", [c for _, c in ADVICE], ids=[name for name, _ in ADVICE])
def test_what_an_error_says_to_run_can_be_run(command: list[str]) -> None:
    check(command)


def test_the_errors_that_give_advice_were_found() -> None:
    found = {" ".join(command) for _, command in ADVICE}
    assert {
        "init",
        "init --new-epoch --partitions 8",
        "init --partitions 8 --new-epoch",
        "init --first-offsets 8",
        "rewind --to-epoch-start",
        "stack up",
    } <= found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_page_that_a_text_names_is_there(path: Path) -> None:
    for text in texts(path):
        for page in re.findall(r"ops/runbooks/\w[\w-]*\.md", text):
            assert (ROOT / page).exists(), page


def lines(path: Path) -> Iterator[str]:
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", path.read_text("utf-8"), re.DOTALL | re.M):
        yield from block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_a_runbook_says_to_run_can_be_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines(path):
        for found in re.finditer(r"(?:^ *|[;&|(] *|-- )readstates (?!-)([^|;>&)]*)", line):
            command = shlex.split(found[1], comments=True)
            if command[0] in ("import", "replay"):  # the file is the reader's own
                Path(command[1]).touch()
            check(command)


@pytest.mark.parametrize(
    "wrong", ["init --partitons 8", "init --first-offsets no", "rewnd", "init 8", "get"]
)
def test_a_slip_is_found(wrong: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check(wrong.split())
