"""Models that a generator makes from schemas/asyncapi.yaml: they compile, and hold real replies.

Java and Go read each reply into its model, reject a field that the model does not have, and write
it again. TypeScript has no reader: the compiler checks each reply as a literal of its type.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .service import differences
from .toolchains import ROOT, Missing, ToolFailed, built, call

DOCUMENT = ROOT / "schemas" / "asyncapi.yaml"
OK = "equal"
TIMEOUT_S = 300.0
STDERR_SHOWN = 1000  # characters


class Line(NamedTuple):
    """What came of one language."""

    language: str
    models: int
    replies: int
    result: str


class NotParsed(Exception):
    """A reply does not fit its model."""


def _same(value: Any) -> Any:
    return value


def _without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_empty_lists(v) for k, v in value.items() if v != []}
    return [_without_empty_lists(each) for each in value] if isinstance(value, list) else value


def _written(
    folder: Path, replies: list[str], *argv: str, as_held: Callable[[Any], Any] = _same
) -> None:
    """Has a program read the replies. Raises NotParsed unless it writes the same ones.

    `as_held`: what of a reply the language keeps.
    """
    done = subprocess.run(
        argv,
        cwd=folder,
        input="".join(f"{reply}\n" for reply in replies),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise NotParsed(done.stderr[-STDERR_SHOWN:])
    for reply, written in zip(replies, done.stdout.splitlines(), strict=True):
        wanted, got = as_held(json.loads(reply)), as_held(json.loads(written))
        if different := differences(wanted, got):
            raise NotParsed("; ".join(different))


def _java(folder: Path, replies: list[str]) -> None:
    classes = str(built("java") / "lib" / "*")  # Jackson
    sources = [str(path) for path in folder.rglob("*.java")]
    call(folder, "javac", "-d", "classes", "-cp", classes, *sources)
    _written(folder, replies, "java", "-cp", f"classes:{classes}", "Parse")


def _go(folder: Path, replies: list[str]) -> None:
    call(folder, "go", "build", "-o", "parse", ".")
    # a field that may be missing is `omitempty`: an empty list is not written
    _written(folder, replies, "./parse", as_held=_without_empty_lists)


def _typescript(folder: Path, replies: list[str]) -> None:
    lines = [f"import {{ {name} }} from './models/{name}'\n" for name in ("ErrorReply", "Reply")]
    for number, reply in enumerate(replies):
        kind = "ErrorReply" if "error" in json.loads(reply) else "Reply"
        lines.append(f"export const reply{number}: {kind} = {reply}\n")
    (folder / "replies.ts").write_text("".join(lines), "utf-8")
    call(folder, "node", "../node_modules/typescript/bin/tsc", "--noEmit", "-p", ".")


LANGUAGES: dict[str, Callable[[Path, list[str]], None]] = {
    "java": _java,
    "typescript": _typescript,
    "go": _go,
}


def check_models(replies: list[str]) -> list[Line]:
    """Generates, compiles and tries the models of each language on these replies."""
    try:
        folder = built("models")
        for language in LANGUAGES:
            shutil.rmtree(folder / language / "models", ignore_errors=True)
        call(folder, "node", "generate.js", str(DOCUMENT), str(folder))
    except Missing as why:
        result = f"wrong: {why}" if isinstance(why, ToolFailed) else f"left out: {why}"
        return [Line(language, 0, 0, result) for language in LANGUAGES]
    lines = []
    for language, check in LANGUAGES.items():
        models = len(list((folder / language / "models").iterdir()))
        try:
            check(folder / language, replies)
        except (ToolFailed, NotParsed) as why:
            lines.append(Line(language, models, 0, f"wrong: {why}"))
        except Missing as why:
            lines.append(Line(language, models, 0, f"left out: {why}"))
        else:
            lines.append(Line(language, models, len(replies), OK))
    return lines
