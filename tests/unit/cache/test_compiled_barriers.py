"""The compiled table has its store barriers, and they hold.

Its modules are translated and compiled as for an installation, but to assembly. Where there is no
compiler there is no compiled table either, so nothing to look at.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import readstates.cache
from readstates.cache import table

FOLDER = Path(readstates.cache.__path__[0])
PXD = FOLDER / "pxd"
MODULES = ("kernel", "marked", "deletions", "table")
MARK = "# store barrier"  # what store_barrier.pxd prints into the assembly
FLAGS = shlex.split(sysconfig.get_config_var("CFLAGS") or "-O2")
CC = shlex.split(sysconfig.get_config_var("CC") or "cc")

# for each method of these modules its barriers in their order: the calls before it and after it
PAIRS = {
    "insert": [(["_load"], ["_seal"])],  # O1
    "_evict": [(["_seal"], ["_free_slot"])],  # O2
    "delete_user": [(["_raise_floor"], ["_drop_state", "_add_final_mark"])],  # O3
    "_bury": [(["_raise_floor"], ["_changed"]), (["_changed"], ["_free_extensions"])],  # O4, O7
    "_put": [  # O4 and O6, O7
        (["_raise_floor", "_write_entries"], ["_changed"]),
        (["_changed"], ["_free_extensions"]),
    ],
}

pytestmark = pytest.mark.skipif(not table.COMPILED, reason="the table is not compiled here")


def assembly(source: Path) -> str:
    """What the compiler makes of a C file."""
    include = sysconfig.get_path("include")
    command = [*CC, *FLAGS, "-g1", "-fPIC", f"-I{include}", "-S", str(source), "-o", "-"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


def methods(module: str) -> list[ast.FunctionDef]:
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def barriers(module: str) -> dict[int, str]:
    """Line of the module: the method that it stands in."""
    return {
        call.lineno: method.name
        for method in methods(module)
        for call in ast.walk(method)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "store_barrier"
    }


def test_a_barrier_stands_between_the_two_stores_of_each_pair() -> None:
    held = [(module, *each) for module in MODULES for each in barriers(module).items()]
    expected = [name for name, pairs in PAIRS.items() for _ in pairs]
    assert sorted(name for _, _, name in held) == sorted(expected)
    for name, pairs in PAIRS.items():
        (module,) = {module for module, _, holder in held if holder == name}
        (method,) = (method for method in methods(module) if method.name == name)
        calls = [
            (node.lineno, ast.unparse(node.func).removeprefix("self."))
            for node in ast.walk(method)
            if isinstance(node, ast.Call)
        ]
        lines = sorted(line for _, line, holder in held if holder == name)
        bounds = [0, *lines, sys.maxsize]
        for number, (before, after) in enumerate(pairs, 1):
            begin, line, end = bounds[number - 1 : number + 2]
            above = {called for at, called in calls if begin < at < line}
            below = {called for at, called in calls if line < at < end}
            assert above >= set(before), (name, number, above)
            assert below >= set(after), (name, number, below)


@pytest.mark.parametrize("module", MODULES)
def test_each_barrier_is_in_the_machine_code(module: str, tmp_path: Path) -> None:
    """By the lines of the module that the compiler notes beside its instructions."""
    translated = tmp_path / f"{module}.c"
    subprocess.run(
        [sys.executable, "-m", "cython", "--line-directives", "-I", str(PXD),
         str(FOLDER / f"{module}.py"), "--module-name", f"readstates.cache.{module}",
         "-o", str(translated)],
        capture_output=True, check=True,
    )  # fmt: skip
    made = assembly(translated)
    files = set(re.findall(rf'\.file (\d+) .*"(?:[^"]*/)?{module}\.py"', made))
    assert files
    lines: set[int] = set()
    at = ("", 0)
    for text in made.splitlines():
        if located := re.match(r"\s*\.loc (\d+) (\d+)", text):
            at = (located[1], int(located[2]))
        elif MARK in text:
            assert at[0] in files, at
            lines.add(at[1])
    assert lines == barriers(module).keys()


def test_no_store_passes_a_barrier(tmp_path: Path) -> None:
    """Of two stores to one place a compiler leaves out the first, unless a barrier is between."""
    declared = (PXD / "store_barrier.pxd").read_text()
    barrier = declared.split('"""')[1]

    def compiled(between: str) -> str:
        source = tmp_path / "probe.c"
        source.write_text(
            f"{barrier}\nint first, other;\n"
            f"void probe(void) {{ first = 11111; {between} other = 22222; first = 33333; }}\n"
        )
        return assembly(source)

    assert "11111" not in compiled("")
    held = compiled("READSTATES_STORE_BARRIER();")
    assert held.index("11111") < held.index(MARK) < held.index("22222")
