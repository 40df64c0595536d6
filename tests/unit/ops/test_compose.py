"""docker-compose.yml and the local stack give the same two servers."""

import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from readstates.ops.local import cassandra, kafka, settings
from readstates.ops.local.cluster import CASSANDRA, KAFKA, Cluster, new_cluster, with_free_ports
from readstates.streams import cli
from readstates.streams.config import Settings, env_name
from readstates.streams.worker.supervise import KILL_MARGIN_S

COMPOSE = Path(__file__).parents[3] / "docker-compose.yml"
# The lines of the local stack's cassandra.yaml that are not filled in.
LITERAL = "\n".join(
    line
    for line in (COMPOSE.parent / "ops/local/cassandra.yaml").read_text("utf-8").splitlines()
    if re.match(r"[a-z_]+: [^$]+$", line)
)
OF_THE_IMAGE = {  # Cassandra 5.0's own file, as far as it names the same settings
    "commitlog_sync": "periodic",
    "commitlog_sync_period": "10000ms",
    "concurrent_writes": 32,
    "disk_failure_policy": "stop",
    "commit_failure_policy": "stop",
    "auto_snapshot": True,
    "memtable_allocation_type": "heap_buffers",
}
MAY_DIFFER = {
    "partitioner",  # the default everywhere
    "auto_snapshot",  # a local stack is thrown away; elsewhere a dropped table leaves a snapshot
}
# The part of the Compose specification that the file uses; anything else in it is a slip.
DURATION = {"type": "string", "pattern": r"^\d+s$"}
STRINGS = {"type": "array", "minItems": 1, "items": {"type": "string"}}
CONDITION = {"enum": ["service_healthy", "service_completed_successfully"]}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "pattern": r"^[a-z/]+:v?\d+\.\d+\.\d+$|^read-states$"},
        "build": {"const": {"context": ".", "dockerfile": "ops/Dockerfile"}},
        "command": STRINGS,
        "entrypoint": STRINGS,
        "ports": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"},  # loopback only
        },
        "environment": {
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {"^[A-Z][A-Z0-9_]*$": {"type": "string"}},
        },
        "volumes": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^[a-z-]+:/|^\./ops/[a-z/]+:/[a-z/]+:ro$"},
        },
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["condition"],
                "properties": {"condition": CONDITION},
            },
        },
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test", "interval", "timeout", "retries", "start_period"],
            "properties": {
                "test": {
                    "type": "array",
                    "minItems": 2,
                    "prefixItems": [{"const": "CMD"}],
                    "items": {"type": "string"},
                },
                "interval": DURATION,
                "timeout": DURATION,
                "retries": {"type": "integer", "minimum": 1},
                "start_period": DURATION,
            },
        },
        "read_only": {"const": True},
        "tmpfs": STRINGS,
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "mem_limit": {"type": "string", "pattern": r"^\d+g$"},
        "stop_grace_period": DURATION,
        "restart": {"const": "unless-stopped"},
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "services", "volumes"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {
            "type": "object",
            "additionalProperties": False,
            "required": ["kafka", "cassandra", "init", "worker", "prometheus", "grafana"],
            "properties": dict.fromkeys(
                ("kafka", "cassandra", "init", "worker", "prometheus", "grafana"), SERVICE
            ),
        },
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
    },
}
HOST_LISTENER = {
    "listeners": "PLAINTEXT://0.0.0.0:19092,HOST://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
    "advertised.listeners": "PLAINTEXT://kafka:19092,HOST://127.0.0.1:9092",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,HOST:PLAINTEXT",
}  # what differs from a broker that only programs on its own machine reach


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text("utf-8"))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = new_cluster(tmp_path / "a stack", 1, 1)
    return with_free_ports(with_free_ports(made, KAFKA), CASSANDRA)


def test_the_file_is_a_valid_compose_file(compose: Any) -> None:
    jsonschema.validate(compose, SCHEMA)
    services = compose["services"].values()
    named = {volume.split(":")[0] for service in services for volume in service.get("volumes", [])}
    for folder in (name for name in named if name.startswith("./")):
        assert (COMPOSE.parent / folder).is_dir(), folder
    assert {name for name in named if not name.startswith("./")} == set(compose["volumes"])


def test_what_is_waited_for_can_be_waited_for(compose: Any) -> None:
    services = compose["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert "restart" not in services[name]


def test_the_workers_settings_exist(compose: Any) -> None:
    settings_names = {env_name(field.name) for field in fields(Settings)}
    for name in ("init", "worker"):
        service = compose["services"][name]
        assert set(service["environment"]) <= settings_names
        command = cli.COMMANDS[service["command"][0]].load()
        options = {option for param in command.params for option in param.opts}
        assert {part for part in service["command"] if part.startswith("--")} <= options


def test_a_worker_that_dies_comes_back_as_the_same_member(compose: Any) -> None:
    worker = compose["services"]["worker"]
    assert worker["command"] == ["worker", "--supervise"]
    assert "READ_STATES_INSTANCE_ID" not in worker["environment"]
    grace_s = int(worker["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().shutdown_timeout_s + KILL_MARGIN_S


def test_the_same_versions(compose: Any) -> None:
    services = compose["services"]
    assert services["kafka"]["image"] == f"apache/kafka:{settings.KAFKA_VERSION}"
    assert services["cassandra"]["image"] == f"cassandra:{settings.CASSANDRA_VERSION}"


def test_the_same_broker_settings(compose: Any, cluster: Cluster) -> None:
    environment = dict(compose["services"]["kafka"]["environment"])
    assert environment.pop("KAFKA_HEAP_OPTS") == f"-Xmx{settings.KAFKA_HEAP}"
    local = kafka.server_properties(cluster, cluster.of(KAFKA)[0])
    assert set(environment) == {_variable(key) for key in local}
    for key, value in settings.broker_settings(1).items():
        assert environment[_variable(key)] == HOST_LISTENER.get(key, value)
        assert local[key] == value
    for key, value in HOST_LISTENER.items():
        assert environment[_variable(key)] == value


def test_the_same_cassandra_settings(compose: Any, cluster: Cluster) -> None:
    environment = compose["services"]["cassandra"]["environment"]
    for key, value in settings.CASSANDRA_SETTINGS.items():
        assert environment[f"CASSANDRA_{key.upper()}"] == str(value)
    assert environment["JVM_EXTRA_OPTS"].split() == list(settings.CASSANDRA_JVM)
    assert environment["MAX_HEAP_SIZE"] == settings.CASSANDRA_HEAP
    node = cluster.of(CASSANDRA)[0]
    argv = cassandra.command(cluster, node, "/java", Path("/lib"))
    assert set(settings.CASSANDRA_JVM) | {f"-Xmx{settings.CASSANDRA_HEAP}"} <= set(argv)


def test_cassandra_has_the_settings_of_the_local_stack(compose: Any, tmp_path: Path) -> None:
    """The script of the container, on a cassandra.yaml like the image's."""
    local = yaml.safe_load(LITERAL)
    assert local["commitlog_sync"] == "group"  # what is acknowledged is synced
    there = tmp_path / "cassandra.yaml"
    there.write_text("cluster_name: x\n" + yaml.safe_dump(OF_THE_IMAGE), "utf-8")
    (script,) = compose["services"]["cassandra"]["command"]
    edit, start, rest = script.replace("$$", "$").partition("exec docker-entrypoint.sh")
    assert start, rest
    edit = edit.replace("/etc/cassandra/cassandra.yaml", shlex.quote(str(there)))
    subprocess.run(["bash", "-c", edit], check=True, timeout=30)
    written = yaml.safe_load(there.read_text("utf-8"))
    wanted = {name: value for name, value in local.items() if name not in MAY_DIFFER}
    assert {name: written.get(name) for name in wanted} == wanted
    assert "commitlog_sync_period" not in written  # Cassandra does not start with both
    assert written["cluster_name"] == "x"


@pytest.mark.parametrize("service", ["init", "worker"])
def test_the_options_of_a_tmpfs_are_those_of_docker_and_podman(compose: Any, service: str) -> None:
    for mount in compose["services"][service]["tmpfs"]:
        assert re.fullmatch(r"/\w+(:(mode=1777|size=\d+[mg])(,size=\d+[mg])?)?", mount), mount


def test_the_tables_are_in_memory(compose: Any) -> None:
    worker = compose["services"]["worker"]
    mounts = [PurePosixPath(mount.split(":")[0]) for mount in worker["tmpfs"]]
    assert PurePosixPath(worker["environment"]["READ_STATES_CACHE_DIR"]).parent in mounts


def test_cassandra_yaml_is_filled_in(cluster: Cluster) -> None:
    node = cluster.of(CASSANDRA)[0]
    cassandra.prepare(cluster, node, "/java", Path("/lib"))
    written = yaml.safe_load((cluster.conf_dir(node) / "cassandra.yaml").read_text("utf-8"))
    assert settings.CASSANDRA_SETTINGS.items() <= written.items()
    assert (written["native_transport_port"], written["storage_port"]) == (
        node.port,
        node.peer_port,
    )
    assert written["listen_address"] == written["rpc_address"] == "127.0.0.1"
    assert written["seed_provider"][0]["parameters"] == [{"seeds": f"127.0.0.1:{node.peer_port}"}]
    folders = [*written["data_file_directories"]]
    folders += [value for key, value in written.items() if key.endswith("_directory")]
    assert len(folders) == 5
    assert all(Path(f).is_relative_to(cluster.data_dir) for f in folders)
    assert not any(key.startswith("batch_size") for key in written)


def test_three_brokers_copy_internal_topics_thrice() -> None:
    three = settings.broker_settings(3)
    assert three["offsets.topic.replication.factor"] == "3"
    assert three["transaction.state.log.min.isr"] == "2"
    assert set(three) == set(settings.broker_settings(1))


def _variable(key: str) -> str:
    return "KAFKA_" + key.upper().replace(".", "_")
