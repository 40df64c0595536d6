"""Somebody who has only the runbooks, and carries their commands out as printed, on local servers.

A command that runs here is run here: `readstates`, `sed`, `date`, `sleep`. Every other command has
a local twin, a method below, whose first line says what stands for what. A command without a twin
fails the test, unless NOT_HERE names it and says why.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from readstates.ops.local.worker import WorkerProcess

from .promql import OPS
from .runbook import blocks_of
from .service import Service
from .waiting import WAIT_S, until

NOT_HERE = {  # the local stack has no such thing
    "kubectl -n read-states apply set-last-applied ": "no API server keeps what was applied last",
    "kubectl -n read-states get statefulset/read-states": "the same",
    "docker ": "the image has a test of its own, `make image`",
    "nodetool ": "the local nodes have no JMX port",
    "tar -C /var/lib/cassandra": "it copies what nodetool has made",
    'kafka-configs.sh --bootstrap-server "$KAFKA" --alter --entity-type users ': (
        "these brokers know no logins; tests/integration/test_secure.py has them"
    ),
    "kafka-acls.sh ": "the same",
    "sstableloader ": "it is a tool of Cassandra's own",
    "kafka-topics.sh ": "one broker is never out of sync with itself",
    "kafka-features.sh ": "the local brokers have one version",
}
WORKERS = {0: 0, 4: 2, 7: 2, 8: 3}  # local workers that stand for so many pods
EXEC = "kubectl -n read-states exec read-states-0 -- "
QUERY = re.compile(r"curl -sG 127\.0\.0\.1:9090/api/v1/query --data-urlencode 'query=(.*)'$")


class Operator:
    """`said` has what each command printed, the last one last."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.folder = service, folder
        shutil.copytree(OPS / "kubernetes", folder / "ops" / "kubernetes")
        for secret in ("kafka-config", "cassandra-password", "new-password"):
            (folder / secret).write_text("secret", "utf-8")
        self.said: list[str] = []
        self._pods: dict[int, WorkerProcess] = {}
        self._jobs: dict[str, subprocess.CompletedProcess[str]] = {}
        self._secret = ""
        self._twins: list[tuple[str, Callable[[re.Match[str]], str]]] = [
            (rf"(?:{EXEC})?readstates (.*)", self._readstates),
            (r"kubectl -n read-states create secret .*\| kubectl apply -f -", self._new_secret),
            (r"kubectl -n read-states create secret generic read-states .*", self._first_secret),
            (r"kubectl apply -k ops/kubernetes", self._apply_all),
            (r"kubectl apply -f ops/kubernetes/(?:namespace|config)\.yaml.*", self._nothing),
            (r"kubectl -n read-states apply -f (\S+)", self._apply_job),
            (r"kubectl -n read-states delete job (\S+)(?: --ignore-not-found)?", self._delete_job),
            (r"kubectl -n read-states wait --for=condition=complete job/(\S+) .*", self._wait_job),
            (r"kubectl -n read-states logs job/(\S+)", self._log_of_job),
            (r"kubectl -n read-states scale statefulset/read-states --replicas=(\d+)", self._scale),
            (
                r"kubectl -n read-states rollout (?:restart|undo) statefulset/read-states",
                self._restart,
            ),
            (r"kubectl -n read-states rollout status statefulset/read-states", self._all_ready),
            (QUERY.pattern, self._measure),
            (r"sleep \d+", self._group_is_empty),
            (r"cqlsh (?:-u cassandra )?-e [\"'](.*)[\"']", self._cql),
            (r"cqlsh -u cassandra <<END\n(.*)\nEND", self._cql),
            (r"kafka-configs\.sh .* --entity-type topics (.*)", self._set_topic),
            (r"(?:sed|date) .*", self._shell),
        ]

    # -- runbooks -----------------------------------------------------------------------------

    def blocks(self, page: str, heading: str = "", *, count: int) -> list[list[str]]:
        """The blocks of a page, of which there are `count`: else the page and its test differ."""
        found = blocks_of(page, heading)
        assert len(found) == count, f"{page}.md has {len(found)} blocks of commands, not {count}"
        return found

    def carry_out(self, *blocks: list[str]) -> str:
        """Run the commands of these blocks; returns what the last of them printed."""
        for block in blocks:
            for command in block:
                self.said.append(self._one(command))
        return self.said[-1]

    def knows(self, command: str) -> bool:
        """True if the command has a twin, or a reason for having none."""
        return any(command.startswith(name) for name in NOT_HERE) or self._twin(command) is not None

    def _twin(self, command: str) -> tuple[Callable[[re.Match[str]], str], re.Match[str]] | None:
        for pattern, twin in self._twins:
            found = re.fullmatch(pattern, command.strip(), re.DOTALL)
            if found is not None:
                return twin, found
        return None

    def _one(self, command: str) -> str:
        if any(command.startswith(name) for name in NOT_HERE):
            return ""
        known = self._twin(command)
        assert known is not None, f"no local twin of: {command}"
        twin, found = known
        return twin(found)

    # -- twins --------------------------------------------------------------------------------

    def _readstates(self, found: re.Match[str]) -> str:
        """The command itself, with the settings of the service."""
        arguments, _, file = found[1].partition(" > ")
        if arguments.startswith("status"):  # partitions may just be moving: one looks again
            until(lambda: self.service.cli("status").returncode == 0, "a status without a problem")
        done = self.service.cli(*shlex.split(arguments))
        assert done.returncode == 0, f"{found[0]}: {done.stdout}{done.stderr}"
        if file:
            (self.folder / file).write_text(done.stdout, "utf-8")
        return done.stdout

    def _shell(self, found: re.Match[str]) -> str:
        """The command itself, in a copy of the manifests."""
        done = subprocess.run(
            ["bash", "-c", found[0]], cwd=self.folder, capture_output=True, text=True,
            timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{found[0]}: {done.stderr}"
        return done.stdout

    def _nothing(self, found: re.Match[str]) -> str:
        """A namespace and a ConfigMap are only read by pods. The file is valid YAML."""
        name = re.search(r"ops/kubernetes/\S+", found[0])
        assert name is not None
        assert list(yaml.safe_load_all((self.folder / name[0]).read_text("utf-8")))
        return ""

    def _first_secret(self, found: re.Match[str]) -> str:
        """The files that it is made of are there, and there is no Secret yet."""
        assert not self._secret, "Secret read-states already exists"
        return self._new_secret(found)

    def _new_secret(self, found: re.Match[str]) -> str:
        """The files that it is made of are there."""
        for name in re.findall(r"--from-file=(\S+)", found[0]):
            assert (self.folder / name).exists(), name
        self._secret = found[0]
        return ""

    def _apply_all(self, _found: re.Match[str]) -> str:
        """The init Job is run, unless it has run; there is one worker, if there was none."""
        assert self._secret, "the pods would wait for the Secret"
        name = "ops/kubernetes/init.yaml"
        if "read-states-init" not in self._jobs:
            self._apply_file(name)
        assert self._jobs["read-states-init"].args == self._arguments(name), "field is immutable"
        if not self._pods:
            self._start(0)
        return ""

    def _apply_job(self, found: re.Match[str]) -> str:
        """The command of the Job is run, with one replica, because there is one broker."""
        self._apply_file(found[1])
        return ""

    def _apply_file(self, name: str) -> None:
        job = yaml.safe_load((self.folder / name).read_text("utf-8"))["metadata"]["name"]
        assert job not in self._jobs, "field is immutable"
        self._jobs[job] = self.service.cli(*self._arguments(name))

    def _arguments(self, name: str) -> tuple[str, ...]:
        job = yaml.safe_load((self.folder / name).read_text("utf-8"))
        arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
        if "--replication-factor" in arguments:
            arguments[arguments.index("--replication-factor") + 1] = "1"
        return tuple(arguments)

    def _delete_job(self, found: re.Match[str]) -> str:
        """The Job is forgotten."""
        if "--ignore-not-found" not in found[0]:
            assert found[1] in self._jobs, "there is no such Job"
        self._jobs.pop(found[1], None)
        return ""

    def _wait_job(self, found: re.Match[str]) -> str:
        """The command of the Job has succeeded."""
        done = self._jobs[found[1]]
        assert done.returncode == 0, done.stdout + done.stderr
        return ""

    def _log_of_job(self, found: re.Match[str]) -> str:
        """What the command of the Job printed."""
        return self._jobs[found[1]].stdout

    def _scale(self, found: re.Match[str]) -> str:
        """As many local workers as WORKERS says; the highest numbers go first, their tables too."""
        wanted = WORKERS[int(found[1])]
        for number in sorted(self._pods, reverse=True):
            if number >= wanted:
                self._stop(number)
        for number in range(wanted):
            if number not in self._pods:
                self._start(number)
        return ""

    def _restart(self, _found: re.Match[str]) -> str:
        """One worker after another is stopped, and started without its tables.

        To undo a rollout is another rollout; the earlier version is the same one here.
        """
        for number in sorted(self._pods, reverse=True):
            self._stop(number)
            self._start(number)
            self._pods[number].wait_ready()
        return ""

    def _start(self, number: int) -> None:
        tables = self.folder / f"pod-{number}"
        self._pods[number] = self.service.start(cache_dir=tables)

    def _stop(self, number: int) -> None:
        assert self._pods.pop(number).stop() == 0
        shutil.rmtree(self.folder / f"pod-{number}")

    def _all_ready(self, _found: re.Match[str]) -> str:
        """Every worker is ready."""
        for pod in self._pods.values():
            pod.wait_ready()
        return ""

    def _group_is_empty(self, _found: re.Match[str]) -> str:
        """What one waits for: no worker is a member any more."""
        group = self.service.group
        until(
            lambda: f"group {group} has no members" in self.service.cli("status").stdout,
            "the workers have left the group",
        )
        return ""

    def _cql(self, found: re.Match[str]) -> str:
        """Statements about the table or the keyspace run on this service's. Roles are not here."""
        printed: list[Any] = []
        for statement in found[1].split(";"):
            of_ours = statement.replace("read_states.", "{keyspace}.")
            if "ROLE" in statement or "GRANT" in statement or "KEYSPACE" in statement:
                continue  # tests/integration/test_secure.py has them
            if statement.strip() and not statement.strip().startswith("DESCRIBE"):
                printed = self.service.cql(of_ours)
        return "\n".join(
            " ".join(str(int.from_bytes(value, "big")) for value in row if value) for row in printed
        )

    def _set_topic(self, found: re.Match[str]) -> str:
        """The setting is set by the same request, on this service's topic."""
        words = shlex.split(found[1])
        topic = words[words.index("--entity-name") + 1]
        name, _, value = words[words.index("--add-config") + 1].partition("=")
        prefix = self.service.env["READ_STATES_TOPIC_PREFIX"]
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(
            ResourceType.TOPIC,
            topic.replace("read-states.", f"{prefix}."),
            incremental_configs=[entry],
        )
        (future,) = self.service.wire.admin.incremental_alter_configs([resource]).values()
        future.result(WAIT_S)
        return ""

    def _measure(self, found: re.Match[str]) -> str:
        """The figure from the workers' metrics, or from the status, without a Prometheus."""
        return f"{MEASURES[found[1]](self):g}"

    def settled(self, block: list[str]) -> None:
        """Carry a block of queries out again and again, until each figure is 0."""
        for command in block:
            until(partial(self._is_zero, command), command, 2 * WAIT_S)

    def _is_zero(self, query: str) -> bool:
        return float(self._one(query)) == 0

    @property
    def is_unowned(self) -> bool:
        return "no owner" in self.service.cli("status").stdout

    @property
    def is_behind(self) -> bool:
        return any(pod.get("/readyz")[0] != 200 for pod in self._pods.values())


def _of(metric: str) -> Callable[[Operator], float]:
    return lambda operator: operator.service.metric(metric)


MEASURES: dict[str, Callable[[Operator], float]] = {
    "sum(read_states_durability_lag_records)": _of("read_states_durability_lag_records"),
    "sum(read_states_processing_lag_records)": _of("read_states_processing_lag_records"),
    "max(read_states_durability_lag_seconds)": _of("read_states_durability_lag_seconds"),
    "sum(partition:read_states_updates_applied:rate5m)": _of("read_states_updates_applied_total"),
    "sum(rate(read_states_cassandra_write_failures_total[5m]))": _of(
        "read_states_cassandra_write_failures_total"
    ),
    "job:read_states_queries_bad:ratio_rate5m": _of("read_states_queries_total{outcome=error}"),
    'rate(read_states_dead_letters_total{reason="misrouted"}[5m])': _of(
        "read_states_dead_letters_total{reason=misrouted}"
    ),
    'rate(read_states_updates_skipped_total{reason="replayed"}[5m])': _of(
        "read_states_updates_skipped_total{reason=replayed}"
    ),
    'max(process_resident_memory_bytes{job="read-states"})': _of("process_resident_memory_bytes"),
    "sum(rate(read_states_evictions_total[1h]))": _of("read_states_evictions_total"),
    'sum(rate(read_states_queries_total{outcome="miss"}[1h])) / '
    "sum(rate(read_states_queries_total[1h]))": _of("read_states_queries_total{outcome=miss}"),
    "job:read_states_partitions_unowned:count": lambda operator: float(operator.is_unowned),
    "max(partition:read_states_catch_up:seconds)": lambda operator: float(operator.is_behind),
    "partition:read_states_catch_up:seconds": lambda operator: float(operator.is_behind),
}
