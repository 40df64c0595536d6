"""Nobody goes round an owner: what starts servers or makes folders does so inside one."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]

OF_THE_STACK_ITSELF = {  # they test or make up what an owner is made of
    "ops/local/cli.py",
    "ops/local/owner.py",
    "tests/integration/test_readme.py",  # a visitor's own, of `readstates stack`
    "tests/integration/test_stack.py",
    "tests/unit/ops/test_stack_processes.py",
}


def calls(path: Path) -> set[str]:
    """Names of what a module calls; of `a.b.c()` the last two."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            found.add(".".join(ast.unparse(node.func).split(".")[-2:]))
    return found


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_only_an_owner_makes_a_stack() -> None:
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in modules("ops", "tests")
        if "Stack" in calls(path)
    }
    assert makers == OF_THE_STACK_ITSELF


def test_only_an_owner_makes_temporary_folders_and_handles_signals_in_ops() -> None:
    wanted = {"signal.signal", "tempfile.TemporaryDirectory", "tempfile.mkdtemp", "atexit.register"}
    found = {
        path.relative_to(ROOT).as_posix(): sorted(calls(path) & wanted)
        for path in modules("ops")
        if calls(path) & wanted
    }
    assert found == {
        "ops/local/interrupts.py": ["signal.signal"],
        "ops/local/reaper.py": ["signal.signal"],
    }


def test_every_command_that_starts_something_has_an_owner() -> None:
    """What a module starts is its command's: each `__main__` of ops/ opens one, but the CLI."""
    starting = {"subprocess.Popen", "subprocess.run", "spawn", "WorkerProcess", "owner.stack"}
    starting |= {"run.stack", "asking.prepare", "asking.servers", "Contender"}
    for main in sorted((ROOT / "ops").glob("*/__main__.py")):
        package = main.parent
        started_here = set.union(*(calls(path) for path in package.glob("*.py"))) & starting
        opened = "command" in calls(main) or main in PLAYED_ELSEWHERE
        assert not started_here or opened, (package.name, started_here)


PLAYED_ELSEWHERE = {ROOT / "ops/demo/__main__.py"}  # `readstates demo --help` imports no worker


def test_the_demo_has_an_owner() -> None:
    assert "command" in calls(ROOT / "ops/demo/stages.py")
