"""The servers' jar files: a repository on loopback plays every fault that a download may meet."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from readstates.ops.local import download, libs, lock, relock
from readstates.ops.local.errors import DownloadFailed, ToolMissing
from readstates.ops.local.lock import Jar

WAIT_S = 60.0
CONTENTS = {name: name.encode() * 50_000 for name in ("alpha", "beta", "gamma", "delta", "epsilon")}
Answer = Callable[["Handler", bytes], None]


def jar_of(name: str) -> Jar:
    content = CONTENTS[name]
    digest = hashlib.sha256(content).hexdigest()
    return Jar("kafka", "org.example", name, "1.0", "", digest, len(content))


JARS = {name: jar_of(name) for name in CONTENTS}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the jar, unless the repository has another answer for its next request."""

    repository: Repository

    def do_GET(self) -> None:
        name = self.path.split("/")[-3]
        self.repository.asked[name] += 1
        self.repository.paths.append(self.path)
        answers = self.repository.answers.get(name, [])
        (answers.pop(0) if answers else whole)(self, CONTENTS[name])

    def log_message(self, *_: object) -> None:
        pass


class Repository:
    """A Maven repository on loopback. `answers`: what it does first, for each jar."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.paths: list[str] = []
        self.answers: dict[str, list[Answer]] = {}
        handler = type("Of", (Handler,), {"repository": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/maven"


def whole(handler: Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def other_content(handler: Handler, content: bytes) -> None:
    whole(handler, content[:-1] + b"?")


def too_long(handler: Handler, content: bytes) -> None:
    whole(handler, content * 2)


def truncated(handler: Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])


def status(code: int) -> Answer:
    return lambda handler, _content: handler.send_error(code)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """The only one. The lock lists JARS for Kafka, and nothing on this machine has any of them."""
    made = Repository()
    (tmp_path / "jars.lock").write_text("".join(f"{jar.line}\n" for jar in JARS.values()))
    monkeypatch.setattr(lock, "LOCK", tmp_path / "jars.lock")
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MAVEN_MIRROR", f"{made.address}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def fetched(said: list[str] | None = None) -> Path:
    return libs.jars("kafka", ([] if said is None else said).append)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name.removesuffix("-1.0.jar"): path.read_bytes() for path in folder.iterdir()}


def partial() -> Path:
    (found,) = libs.cache_dir().glob("*.partial")
    return found


def test_the_mirror_of_the_environment_is_asked_once_for_each(repository: Repository) -> None:
    said: list[str] = []
    folder = fetched(said)
    assert contents(folder) == CONTENTS
    assert repository.asked == dict.fromkeys(CONTENTS, 1)
    assert "/maven/org/example/alpha/1.0/alpha-1.0.jar" in repository.paths
    assert said[0] == "kafka: downloading 5 of 5 jars, 1.3 MB, once"
    assert fetched() == folder
    assert repository.asked.total() == 5, "what is complete is not asked for again"


def test_without_a_mirror_it_is_maven_s_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAVEN_MIRROR", raising=False)
    assert re.fullmatch(r"https://[\w./]*maven\w*", download.repository())


def test_what_fetches_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAVEN_MIRROR", raising=False)
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    with pytest.raises(ToolMissing, match=r"pip install 'readstates\[local\]'"):
        download.repository()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (other_content, f"its SHA-256 is [0-9a-f]{{64}} and should be {JARS['beta'].sha256}"),
        (truncated, "it has 100,000 bytes and should have 200,000"),
        (too_long, r"it has at least 2\d\d,\d{3} bytes and should have 200,000"),
        (status(503), "the repository answered 503 Service Unavailable"),
    ],
)
def test_a_fault_is_named_and_tried_again(
    repository: Repository, answer: Answer, fault: str
) -> None:
    repository.answers["beta"] = [answer, answer]
    said: list[str] = []
    assert contents(fetched(said)) == CONTENTS
    assert repository.asked["beta"] == 3
    named = [line for line in said if "beta" in line]
    assert len(named) == 2
    assert re.fullmatch(rf"kafka: beta-1\.0\.jar: {fault}; attempt 2 of 6 in 0.01 s", named[0])
    assert named[1].endswith("attempt 3 of 6 in 0.02 s")


def test_one_that_stays_wrong_is_refused(repository: Repository) -> None:
    repository.answers["beta"] = [other_content] * 100
    with pytest.raises(
        DownloadFailed, match=r"(?s)beta-1\.0\.jar: its SHA-256 is .* asked for at http"
    ):
        fetched()
    assert repository.asked["beta"] == download.ATTEMPTS
    assert not [path for path in libs.cache_dir().iterdir() if path.name.endswith(".jar")]
    assert not (partial() / JARS["beta"].file).exists()
    repository.answers.clear()
    assert contents(fetched()) == CONTENTS
    assert repository.asked["alpha"] == 1, "what was right is kept"


def test_what_would_not_change_is_not_tried_again(repository: Repository) -> None:
    repository.answers["gamma"] = [status(404)] * 100
    with pytest.raises(DownloadFailed, match=r"(?s)gamma.*404.*MAVEN_MIRROR"):
        fetched()
    assert repository.asked["gamma"] == 1


def test_an_address_that_is_none(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAVEN_MIRROR", "nowhere")
    with pytest.raises(DownloadFailed, match="nowhere"):
        fetched()


PROGRAM = """
import sys
from pathlib import Path
from readstates.ops.local import interrupts, libs, lock
lock.LOCK = Path(sys.argv[1])
with interrupts.orderly():  # as every command
    print(libs.jars("kafka", lambda line: print(line, file=sys.stderr, flush=True)))
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "jars.lock")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def held_until(event: threading.Event, begun: threading.Event) -> Answer:
    """Sends half, and the rest only after `event`."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.wfile.flush()
        begun.set()
        event.wait(WAIT_S)
        try:
            handler.wfile.write(content[len(content) // 2 :])
        except OSError:
            handler.close_connection = True  # who asked is gone

    return answer


def test_two_processes_at_once_fetch_each_jar_once(repository: Repository, tmp_path: Path) -> None:
    go_on, begun = threading.Event(), threading.Event()
    repository.answers["alpha"] = [held_until(go_on, begun)]
    with start(tmp_path) as first:
        assert begun.wait(WAIT_S)
        with start(tmp_path) as second:
            assert second.stderr is not None
            assert second.stderr.readline() == "kafka: another download is under way\n"
            go_on.set()
            folders = {process.communicate(timeout=WAIT_S)[0] for process in (first, second)}
    assert (first.returncode, second.returncode) == (0, 0)
    (folder,) = folders
    assert contents(Path(folder.strip())) == CONTENTS
    assert repository.asked == dict.fromkeys(CONTENTS, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_temporary_names_only(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """The download stands still when the signal comes, and does not hold the process up."""
    go_on, begun = threading.Event(), threading.Event()
    repository.answers["alpha"] = [held_until(go_on, begun)]
    run = start(tmp_path)
    try:
        assert begun.wait(WAIT_S)
        run.send_signal(number)
        run.communicate(timeout=WAIT_S / 2)  # before the repository goes on
    finally:
        run.kill()
        run.communicate()
        go_on.set()
    names = {path.name for path in partial().iterdir()}
    assert not (partial() / JARS["alpha"].file).exists()
    assert {name for name in names if name.startswith("alpha")} <= {
        name for name in names if name.endswith(".part")
    }
    assert [path.suffix for path in libs.cache_dir().iterdir() if path.is_dir()] == [".partial"]
    # The repository may hear late of what the ended run asked for: the next one has its own path.
    monkeypatch.setenv("MAVEN_MIRROR", f"{repository.address}/again")
    kept = {path.name.removesuffix("-1.0.jar") for path in partial().glob("*.jar")}
    assert contents(fetched()) == CONTENTS, "nothing temporary is left"
    asked = Counter(path.split("/")[-3] for path in repository.paths if "/again/" in path)
    assert asked == Counter(set(CONTENTS) - kept)


def test_what_is_there_is_kept_if_it_fits(repository: Repository, tmp_path: Path) -> None:
    by_maven = tmp_path / "home/.m2/repository/org/example"
    for name, content in (("alpha", CONTENTS["alpha"]), ("beta", b"something else")):
        path = by_maven / name / "1.0" / f"{name}-1.0.jar"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    other = libs.cache_dir() / "kafka-another-version"
    other.mkdir(parents=True)
    (other / JARS["gamma"].file).write_bytes(CONTENTS["gamma"])
    assert contents(fetched()) == CONTENTS
    assert sorted(repository.asked) == ["beta", "delta", "epsilon"]
    assert (by_maven / "beta/1.0/beta-1.0.jar").read_bytes() == b"something else"
    assert (other / JARS["gamma"].file).exists()


def test_a_damaged_one_of_an_earlier_run_is_fetched_again(repository: Repository) -> None:
    folder = fetched()
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    (partial() / JARS["beta"].file).write_bytes(other := CONTENTS["beta"][:-1] + b"?")
    assert len(other) == JARS["beta"].size
    assert contents(fetched()) == CONTENTS
    assert repository.asked == {**dict.fromkeys(CONTENTS, 1), "beta": 2}


def test_a_folder_that_cannot_be_filled(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "read-states").mkdir()
    libs.cache_dir().mkdir()
    name = fetched().name
    shutil.rmtree(libs.cache_dir() / name)
    (libs.cache_dir() / f"{name}.partial").write_text("in the way")
    with pytest.raises(DownloadFailed, match="cannot be filled"):
        fetched()


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_a_terminal_gets_one_line_that_rewrites_itself(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    repository.answers["beta"] = [status(503)]
    said: list[str] = []
    fetched(said)
    assert "\n" not in terminal.text
    assert re.search(r"\rkafka: \d of 5 jars, \d\.\d of 1\.3 MB\x1b\[K", terminal.text)
    assert terminal.text.endswith("\r\033[K")
    assert not [line for line in said if " of 5 jars, " in line and "downloading" not in line]


def test_elsewhere_a_line_comes_now_and_then(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository goes on only when such a line was said."""
    monkeypatch.setattr(download, "LINE_EVERY_S", 0.0)
    go_on, begun = threading.Event(), threading.Event()
    repository.answers["alpha"] = [held_until(go_on, begun)]

    def say(line: str) -> None:
        if re.fullmatch(r"kafka: \d of 5 jars, \d\.\d of 1\.3 MB", line):
            go_on.set()

    assert contents(libs.jars("kafka", say)) == CONTENTS
    assert go_on.is_set()


# The lock that the project ships


@pytest.mark.parametrize("role", relock.ARTIFACTS)
def test_the_lock_holds_the_versions_of_the_settings(role: str) -> None:
    listed = {(jar.group, jar.artifact, jar.version) for jar in lock.jars_of(role)}
    assert set(relock.ARTIFACTS[role]) <= listed, "make lock-jars"


def test_the_lock_is_whole() -> None:
    text = lock.LOCK.read_text()
    jars = [jar for role in relock.ARTIFACTS for jar in lock.jars_of(role)]
    assert "".join(f"{jar.line}\n" for jar in jars) == text
    assert set(relock.ARTIFACTS) == set(libs.VERSIONS)
    for role in relock.ARTIFACTS:
        files = [jar.file for jar in lock.jars_of(role)]
        assert len(set(files)) == len(files)
    assert {len(jar.sha256) for jar in jars} == {64}


def test_a_classifier_is_part_of_name_and_line() -> None:
    line = f"cassandra com.example:thing:1.3:native {'0' * 64} 7"
    jar = lock._parsed(line, "cassandra")
    assert jar is not None
    assert jar.path == "com/example/thing/1.3/thing-1.3-native.jar"
    assert jar.line == line
    assert relock._jar("cassandra", Path(jar.path), b"").line.startswith(line.partition("0")[0])


def test_maven_is_called_for_the_lock_only() -> None:
    ops = Path(libs.__file__).parents[1]
    assert os.access(ops, os.R_OK)
    callers = {
        path.name
        for path in ops.rglob("*")
        if path.suffix in (".py", ".sh") and re.search(r"\bmvn\b", path.read_text("utf-8"))
    }
    assert callers <= {"relock.py", "bare.sh"}  # the latter makes sure that it is not there
