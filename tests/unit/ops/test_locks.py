"""What pip installs is locked by hash, and the locks hold what is wanted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .test_dockerfile import PROJECT, brought

ROOT = Path(__file__).parents[3]
LOCKS = sorted(ROOT.glob("ops/**/*.lock")) + sorted(ROOT.glob("tests/**/*.lock"))
LOCKS = [path for path in LOCKS if path.name != "jars.lock"]  # test_jars.py
UNLOCKED = {
    "ops/lock.sh",  # uv, where there is no lock yet
    "ops/wheel.py",  # the tools that build a wheel; and the wheel, as its users install it
    "ops/bare.sh",  # the wheel, as its users install it
}


def pins(lock: Path) -> dict[str, str]:
    """The locked packages of this Python and platform, with their versions."""
    text = re.sub(r"^\s*#.*\n", "", lock.read_text("utf-8"), flags=re.MULTILINE)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", text):
        requirement, *hashes = entry.split(" --hash=")
        assert hashes, f"{requirement}: no hash"
        assert all(re.match(r"sha256:[0-9a-f]{64}\b", one) for one in hashes)
        parsed = Requirement(requirement.strip(" \\\n"))
        (pin,) = parsed.specifier
        assert pin.operator == "==", requirement
        if parsed.marker is None or parsed.marker.evaluate():
            found[canonicalize_name(parsed.name)] = pin.version
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_package_has_a_version_and_hashes(lock: Path) -> None:
    assert pins(lock)
    assert str(Path.home()) not in lock.read_text("utf-8")


def test_the_lock_of_setup_fits_the_project() -> None:
    """`make lock` after a change of the dependencies."""
    optional = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
        *(one for extra in ("worker", "local", "dev") for one in optional[extra]),
    ]
    parsed = [Requirement(one) for one in wanted]
    parsed = [
        one
        for one in parsed
        if one.name != "readstates" and (one.marker is None or one.marker.evaluate())
    ]
    locked = pins(ROOT / "ops/setup.lock")
    assert brought(map(str, parsed)) <= set(locked)
    for one in parsed:
        assert one.specifier.contains(locked[canonicalize_name(one.name)]), one


@pytest.mark.parametrize(
    ("lock", "source"),
    [
        ("ops/uv.lock", "ops/uv.in"),
        ("ops/bench/lib.lock", "ops/bench/lib.in"),
        ("ops/bench/quix.lock", "ops/bench/quix.in"),
        ("tests/foreign/python/requirements.lock", "tests/foreign/python/requirements.txt"),
    ],
)
def test_the_other_locks_fit_their_lists(lock: str, source: str) -> None:
    locked = pins(ROOT / lock)
    lines = (ROOT / source).read_text("utf-8").splitlines()
    for one in (Requirement(line) for line in lines if line and not line.startswith("#")):
        assert one.specifier.contains(locked[canonicalize_name(one.name)]), one


def test_nothing_else_is_installed_by_pip() -> None:
    """Each `pip install` of a script names a lock, or only what is here already."""
    listed = subprocess.run(
        ["git", "ls-files", "ops", "tests", "Makefile", ".ci"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    found = set()
    for name in listed:
        path = ROOT / name
        if path == Path(__file__) or path.suffix not in (".sh", ".py", ""):
            continue
        text = path.read_text("utf-8", "replace").replace("\\\n", " ")
        calls = re.findall(r"""^.*(?:pip install --|"pip", "install").*$""", text, re.MULTILINE)
        calls += re.findall(r'^.*"\$\{pip\[@\]\}".*$|^.*-m pip install.*$', text, re.MULTILINE)
        if not all(re.search("--require-hashes|--no-deps|pip=|pip =", call) for call in calls):
            found.add(name)
    assert found == UNLOCKED
