"""What may be in a wheel, and what must be."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from readstates.ops import wheel

SUFFIX = ".cpython-313-x86_64-linux-gnu.so"
SOURCES = [
    f"readstates/{path.relative_to(wheel.ROOT)}"
    for folder in ("schemas", "cache", "streams", "ops")
    for path in (wheel.ROOT / folder).rglob("*.py")
]
GOOD = {
    *SOURCES,
    *(f"{module}{SUFFIX}" for module in wheel.compiled()),
    "readstates/schemas/read_states.cql",
    "readstates-0.1.0.dist-info/METADATA",
}
TABLE = "readstates/cache/table"


def test_the_compiled_modules_are_those_of_the_code() -> None:
    sources = {name.removeprefix("readstates/") for name in wheel.compiled()}
    assert sources == {
        *(f"cache/{name}" for name in ("kernel", "marked", "deletions", "table", "marks")),
        *(f"cache/{name}" for name in ("slots", "rebuild", "verify")),
        *(f"schemas/{name}" for name in ("fast_decoder", "log_records", "rows")),
    }


def test_a_good_wheel_has_no_fault() -> None:
    assert wheel.faults(GOOD, SUFFIX) == []


@pytest.mark.parametrize(
    ("without", "more", "said"),
    [
        ({f"{TABLE}{SUFFIX}"}, set(), f"{TABLE}{SUFFIX} is not compiled"),
        ({f"{TABLE}.py"}, set(), f"{TABLE}.py is missing"),
        (set(), {f"{TABLE}.cpython-311-x86_64-linux-gnu.so"}, "should not be compiled"),
        (set(), {"tests/conftest.py"}, "tests/conftest.py does not belong in it"),
        (set(), {"readstates/tests/x.py"}, "readstates/tests/x.py does not belong in it"),
        (set(), {f"{TABLE}.c"}, f"{TABLE}.c does not belong in it"),
    ],
)
def test_a_fault_is_found(without: set[str], more: set[str], said: str, tmp_path: Path) -> None:
    (fault,) = wheel.faults(GOOD - without | more, SUFFIX)
    assert fault.endswith(said)
    path = tmp_path / "bad.whl"
    with zipfile.ZipFile(path, "w") as written:
        for name in GOOD - without | more:
            written.writestr(name, "")
    with pytest.raises(wheel.WheelError, match=r"bad\.whl: "):
        wheel.check(path, SUFFIX)


def test_what_the_tests_need_is_there() -> None:
    for name in (*wheel.TESTED, *wheel.BESIDE):
        assert os.path.exists(wheel.ROOT / name), name


def test_an_interpreter_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(wheel.wheels, ["python0.1"])
    assert done.exit_code == 1
    assert "python0.1" in done.output


def test_a_step_that_takes_too_long_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_args: object, **_more: object) -> None:
        raise subprocess.TimeoutExpired("pytest", 7, output=b"tests/unit/cache/test_table.py ....")

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(wheel.WheelError, match=r"over 7 s:\ntests/unit/cache/test_table\.py \.{4}"):
        wheel.run("python", "-m", "pytest")
