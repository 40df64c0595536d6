"""A service of one's own: topics, a keyspace and workers, on a stack that others share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from readstates.ops.local import cql
from readstates.ops.local.worker import WorkerProcess

from .preloaded import PROGRAM, PreloadedWorker, run_command
from .rows import Rows
from .waiting import WAIT_S, until
from .wire import PARTITIONS, Wire

USER_STATES_MAX = 50
LOOKING_OFTEN = "tests.support.looking_often"  # a `module` for what waits for the watch


class Service:
    """Topics, a keyspace and workers with names of their own, on a stack that others share.

    `module`: what the workers run, which may be the command line with something changed.
    """

    def __init__(
        self,
        stack_env: Mapping[str, str],
        folder: Path,
        name: str,
        *,
        init: bool = True,
        module: str = PROGRAM,
        **settings: object,
    ) -> None:
        self.folder, self.name, self._module = folder, name, module
        given = {
            "TOPIC_PREFIX": f"it-{name}",
            "KAFKA_GROUP": f"it-{name}",
            "CASSANDRA_KEYSPACE": f"it_{name}",
            "CACHE_DIR": folder / f"tables-{name}",
            "CACHE_STATES": 1000,
            "USER_STATES_MAX": USER_STATES_MAX,
            "FLUSH_DELAY_S": 0.5,
            "COMMIT_INTERVAL_S": 0.2,
            "SESSION_TIMEOUT_S": 6,
            **{key.upper(): value for key, value in settings.items()},
        }
        self.env = {
            **stack_env,
            **{f"READ_STATES_{key}": str(value) for key, value in given.items()},
        }
        self.workers: list[WorkerProcess] = []
        self._wire: Wire | None = None
        self.group = str(given["KAFKA_GROUP"])
        if init:
            done = self.cli("init", "--partitions", str(PARTITIONS))
            assert done.returncode == 0, done.stderr

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line with this service's settings."""
        return run_command({**os.environ, **self.env}, arguments)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on until it is told to end."""
        return subprocess.Popen(
            [sys.executable, "-m", "readstates.streams.cli", *arguments],
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            host, port = (self.env[f"READ_STATES_CASSANDRA_{n}"] for n in ("HOSTS", "PORT"))
            self._wire = Wire(
                self.env["READ_STATES_KAFKA_BOOTSTRAP"],
                self.env["READ_STATES_TOPIC_PREFIX"],
                Rows(host, int(port), self.env["READ_STATES_CASSANDRA_KEYSPACE"]),
            )
        return self._wire

    def start(self, *arguments: str, module: str = "", **settings: object) -> WorkerProcess:
        """Another worker, with these arguments; does not wait for it.

        `module`: what it runs in place of that of the service.
        """
        more = {f"READ_STATES_{key.upper()}": str(value) for key, value in settings.items()}
        log = self.folder / f"{self.name}-{len(self.workers)}.log"
        worker = PreloadedWorker(
            {**self.env, **more}, log, *arguments, module=module or self._module
        )
        self.workers.append(worker.start())
        return self.workers[-1]

    def metric(self, name: str) -> float:
        """A metric, summed over the running workers; labels as in `name{label=value}`."""
        return sum(w.metrics().get(name, 0.0) for w in self.workers if w.returncode is None)

    def wait_durable(self, ends: Iterable[int]) -> None:
        """Until the group has committed up to these ends of the updates topic."""
        expected = list(ends)
        until(lambda: self.committed(len(expected)) == expected, f"committed {expected}", 60)

    def committed(self, partitions: int = PARTITIONS) -> list[int]:
        """The group's offsets of the updates topic; below 0: none."""
        return self.wire.committed(self.group, partitions)

    def first_offsets(self) -> list[int]:
        """Of the present epoch, as `readstates status` shows them."""
        found = json.loads(self.cli("status", "--json").stdout)["cassandra"]["first_offsets"]
        return list(map(int, found))

    def commit_by_hand(self, offsets: list[int]) -> None:
        """As an operator does with Kafka's own tools; no worker may run."""
        places = [TopicPartition(self.wire.updates, n, at) for n, at in enumerate(offsets)]
        request = [ConsumerGroupTopicPartitions(self.group, places)]
        (done,) = self.wire.admin.alter_consumer_group_offsets(request).values()
        done.result(WAIT_S)

    def cql(self, statement: str) -> list[list[bytes | None]]:
        """A statement in which {keyspace} stands for this service's."""
        host, port, keyspace = (
            self.env[f"READ_STATES_CASSANDRA_{name}"] for name in ("HOSTS", "PORT", "KEYSPACE")
        )
        return cql.query(host, int(port), statement.format(keyspace=keyspace), 30)

    def lose_epochs_topic(self) -> None:
        """Kafka's copy of the history of epochs is gone."""
        name = f"{self.wire.prefix}.epochs"
        self.wire.admin.delete_topics([name])[name].result(WAIT_S)
        until(lambda: name not in self.wire.topics(), f"{name} is gone")

    def close(self) -> None:
        """Stops what still runs."""
        for worker in self.workers:
            if worker.returncode is None:
                worker.stop()
        if self._wire is not None:
            self._wire.close()


Make = Callable[..., Service]  # with the name, and what else `Service` may be given
