"""The clients that are run: where their programs are, what they need, and what a user must set."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NOTHING = "nothing"


class Client(NamedTuple):
    """One client. `setting`: what the program sets, and a user must set, for the right partitions.

    `toolchain`: the folder with its program and its lock file. `package`: its name there. `run`:
    how to start it in the folder that the toolchain was built in. `reply_partitions`: of its topic.
    """

    name: str
    toolchain: str
    package: str
    setting: str
    run: tuple[str, ...]
    reply_partitions: int = 1

    @property
    def version(self) -> str:
        return VERSIONS[self.toolchain](self.package)


def _npm(package: str, folder: str) -> str:
    lock = json.loads((HERE / folder / "package-lock.json").read_text("utf-8"))
    return str(lock["packages"][f"node_modules/{package}"]["version"])


def _found(pattern: str, file: str) -> str:
    match = re.search(pattern, (HERE / file).read_text("utf-8"))
    assert match is not None, (pattern, file)
    return match[1]


def _maven(package: str, folder: str) -> str:
    found = rf"<artifactId>{re.escape(package)}</artifactId>\s*<version>([^<]+)<"
    return _found(found, f"{folder}/pom.xml")


VERSIONS = {
    "java": lambda package: _maven(package, "java"),
    "spring": lambda package: _maven(package, "spring"),
    "python": lambda package: _found(
        rf"(?m)^{re.escape(package)}(?:\[.*\])?==(\S+)$", "python/requirements.txt"
    ),
    "node": lambda package: _npm(package, "node"),
    "confluent": lambda package: _npm(package, "confluent"),
    "go": lambda package: _found(rf"{re.escape(package)} v(\S+)", "go/go.mod"),
}


def _python(name: str, package: str, module: str, setting: str = NOTHING) -> Client:
    run = ("venv/bin/python", "-m", f"tests.foreign.python.{module}")
    return Client(name, "python", package, setting, run)


def _java(program: str, *properties: str) -> tuple[str, ...]:
    return ("java", *properties, "-cp", "classes:lib/*", program)


def _node(program: str) -> tuple[str, ...]:
    return ("node", program)


SPRING = "reply topic read-states.replies.NAME; setReplyErrorChecker; "
CONFLUENT = "@confluentinc/kafka-javascript"
CLIENTS = (
    Client("kafka-clients (Java)", "java", "kafka-clients", NOTHING, _java("PlainClient")),
    Client(
        "Spring Kafka, shared reply topic",
        "spring",
        "spring-kafka",
        SPRING + "setSharedReplyTopic(true), a group for each instance",
        _java("SpringClient", "-Dshared=true"),
    ),
    Client(
        "Spring Kafka, reply partition",
        "spring",
        "spring-kafka",
        SPRING + "a TopicPartitionOffset for each instance",
        _java("SpringClient", "-Dshared=false"),
        reply_partitions=2,
    ),
    _python("aiokafka", "aiokafka", "aiokafka_client"),
    _python("kafka-python", "kafka-python", "kafka_python_client"),
    _python("quixstreams", "quixstreams", "quixstreams_client", "auto_create_topics=False"),
    _python(
        "faust-streaming, agent.ask",
        "faust-streaming",
        "faust_client",
        "reply_create_topic=True; start_client(), not a worker",
    ),
    _python(
        "confluent-kafka-python (librdkafka)",
        "confluent-kafka",
        "confluent_client",
        "partitioner=murmur2_random",
    ),
    Client("kafkajs", "node", "kafkajs", NOTHING, _node("kafkajs.js")),
    Client(
        "@platformatic/kafka",
        "node",
        "@platformatic/kafka",
        "partitioner: compatibilityPartitioner",
        _node("platformatic.js"),
    ),
    Client(
        f"{CONFLUENT}, KafkaJS API", "confluent", CONFLUENT, NOTHING, _node("confluent-kafkajs.js")
    ),
    Client(
        f"{CONFLUENT}, RdKafka API",
        "confluent",
        CONFLUENT,
        "partitioner: 'murmur2_random'",
        _node("confluent-rdkafka.js"),
    ),
    Client("franz-go", "go", "github.com/twmb/franz-go", NOTHING, ("bin/franz",)),
    Client(
        "kafka-go",
        "go",
        "github.com/segmentio/kafka-go",
        "Balancer: kafka.Murmur2Balancer{}",
        ("bin/kafkago",),
    ),
    Client(
        "sarama",
        "go",
        "github.com/IBM/sarama",
        "NewCustomPartitioner(WithAbsFirst(), WithCustomHashFunction(murmur2)), see go/sarama",
        ("bin/sarama",),
    ),
)
