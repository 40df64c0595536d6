"""The manifests are valid by Kubernetes' own schemas, and agree with the worker they start."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from readstates.cache.layout import slots_for, table_size_bytes
from readstates.streams import cli
from readstates.streams.config import SECRETS, Settings, env_name
from readstates.streams.worker.supervise import KILL_MARGIN_S
from tests.support.promql import OPS, RULES, rules

VERSIONS = ("1.29", "1.34")  # the oldest and the newest that are meant
FOLDER = OPS / "kubernetes"
KUSTOMIZATION = "kustomization.yaml"
BYTES = {"Mi": 1 << 20, "Gi": 1 << 30}


def objects() -> dict[tuple[str, str], Any]:
    """Every object of the files that the kustomization names, by kind and name."""
    named = yaml.safe_load((FOLDER / KUSTOMIZATION).read_text("utf-8"))["resources"]
    assert set(named) | {KUSTOMIZATION} == {path.name for path in FOLDER.glob("*.yaml")}
    found = [o for name in named for o in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))]
    return {(o["kind"], o["metadata"]["name"]): o for o in found}


OBJECTS = objects()
POD = OBJECTS["StatefulSet", "read-states"]["spec"]["template"]["spec"]
INIT = OBJECTS["Job", "read-states-init"]["spec"]["template"]["spec"]
WORKER = POD["containers"][0]
CONFIG = OBJECTS["ConfigMap", "read-states"]["data"]
DEPLOY = (OPS / "runbooks/deploy.md").read_text("utf-8")


def size(text: str) -> int:
    return int(text[:-2]) * BYTES[text[-2:]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("key", OBJECTS, ids="/".join)
def test_schema(key: tuple[str, str], version: str) -> None:
    kubernetes_validate.validate(OBJECTS[key], version, strict=True)


def test_applying_them_again_takes_nothing_back() -> None:
    """What an operator or an autoscaler has set stays: the number of workers, and the secrets."""
    assert "replicas" not in OBJECTS["StatefulSet", "read-states"]["spec"]
    assert not [name for kind, name in OBJECTS if kind in ("Secret", "HorizontalPodAutoscaler")]


def test_the_steps_of_a_deployment_find_what_they_need() -> None:
    """The namespace is there before the secret, and the secret and the role before the pods."""
    steps = [
        "apply -f ops/kubernetes/namespace.yaml",
        "create secret generic read-states ",
        f"CREATE ROLE IF NOT EXISTS {CONFIG['READ_STATES_CASSANDRA_USERNAME']} ",
        "apply -k ops/kubernetes",
        "scale statefulset/read-states",
        "rollout status statefulset/read-states",
    ]
    assert [DEPLOY.count(step) for step in steps] == [1] * len(steps)
    assert [DEPLOY.index(step) for step in steps] == sorted(DEPLOY.index(step) for step in steps)
    secrets = {
        v["secret"]["secretName"] for p in (POD, INIT) for v in p["volumes"] if "secret" in v
    }
    assert secrets == {"read-states"}


def test_the_schemas_refuse_a_slip() -> None:
    slip = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}, "dada": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(slip, VERSIONS[0], strict=True)


@pytest.mark.parametrize("pod", [POD, INIT])
def test_nothing_runs_with_more_rights_than_it_needs(pod: Any) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in (OPS / "Dockerfile").read_text("utf-8")
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("pod", [POD, INIT])
def test_no_service_of_the_namespace_becomes_a_setting(pod: Any) -> None:
    """One called read-states-http would set READ_STATES_HTTP_PORT to tcp://…."""
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", [POD, INIT])
def test_settings_and_commands_exist(pod: Any) -> None:
    names = {env_name(field.name) for field in fields(Settings)}
    secret_files = {f"{env_name(name)}_FILE" for name in SECRETS}
    container = pod["containers"][0]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert set(CONFIG) <= names - set(map(env_name, SECRETS))
    assert set(given) <= names | secret_files
    keys = {f"/secrets/{key}" for key in re.findall(r"--from-file=([\w.-]+)", DEPLOY)}
    keys.remove("/secrets/ca.pem")  # which the file of KAFKA_CONFIG names
    assert {given[name] for name in secret_files} == keys
    command = cli.COMMANDS[container["args"][0]].load()
    options = {option for param in command.params for option in param.opts}
    assert {part for part in container["args"] if part.startswith("--")} <= options


def test_the_settings_are_good_ones() -> None:
    settings = Settings.load(CONFIG)
    assert POD["terminationGracePeriodSeconds"] > settings.shutdown_timeout_s + KILL_MARGIN_S


def test_a_worker_that_dies_comes_back_as_the_same_member() -> None:
    """At once, and with the name and the tables that its volume keeps."""
    assert WORKER["args"] == ["worker", "--supervise"]
    given = {entry["name"]: entry["value"] for entry in WORKER["env"]}
    assert "READ_STATES_INSTANCE_ID" not in {*given, *CONFIG}
    (tables,) = [mount for mount in WORKER["volumeMounts"] if mount["name"] == "tables"]
    assert Path(given["READ_STATES_CACHE_DIR"]).parent == Path(tables["mountPath"])


def test_tables_fit_when_half_of_the_workers_are_gone() -> None:
    settings = Settings.load(CONFIG)
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes["tables"]["emptyDir"]["medium"] == "Memory"
    room = size(volumes["tables"]["emptyDir"]["sizeLimit"])
    arguments = INIT["containers"][0]["args"]
    partitions = int(arguments[arguments.index("--partitions") + 1])
    (workers,) = map(int, re.findall(r"--replicas=(\d+)", DEPLOY))
    tables = -(-partitions // (workers // 2))
    assert tables * table_size_bytes(slots_for(settings.cache_states)) < room
    assert room < size(WORKER["resources"]["limits"]["memory"])


@pytest.mark.parametrize("owner", [("StatefulSet", "read-states"), ("Job", "read-states-init")])
def test_no_stranger_reaches_a_pod_and_no_pod_a_stranger(owner: tuple[str, str]) -> None:
    """The image listens on all addresses, because a loopback address would not be reached."""
    labels = OBJECTS[owner]["spec"]["template"]["metadata"]["labels"]
    policies = [o["spec"] for (kind, _), o in OBJECTS.items() if kind == "NetworkPolicy"]
    (policy,) = [p for p in policies if p["podSelector"]["matchLabels"].items() <= labels.items()]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    is_worker = owner[0] == "StatefulSet"
    for rule in policy.get("ingress", []):
        assert is_worker
        assert rule["from"]
        assert [port["port"] for port in rule["ports"]] == [WORKER["ports"][0]["name"]]
    servers, dns = policy["egress"]
    brokers = CONFIG["READ_STATES_KAFKA_BOOTSTRAP"].split(",")
    wanted = {int(broker.rpartition(":")[2]) for broker in brokers}
    wanted.add(int(CONFIG.get("READ_STATES_CASSANDRA_PORT", Settings().cassandra_port)))
    assert {port["port"] for port in servers["ports"]} == wanted
    assert {port["port"] for port in dns["ports"]} == {53}


def test_one_memory_limit() -> None:
    (limit,) = (r["expr"] for r in rules(RULES) if r["record"] == "read_states:memory_limit:bytes")
    allowed = size(WORKER["resources"]["limits"]["memory"])
    assert limit == f"vector({allowed})"
    compose = yaml.safe_load((OPS.parent / "docker-compose.yml").read_text("utf-8"))
    assert compose["services"]["worker"]["mem_limit"] == f"{allowed >> 30}g"


def test_prometheus_looks_where_the_workers_are() -> None:
    scrape = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text("utf-8"))
    (job,) = scrape["scrape_configs"]
    (places,) = job["dns_sd_configs"]
    assert places["names"] == ["worker", "read-states-workers"]
    service = OBJECTS["Service", "read-states-workers"]["spec"]
    assert service["clusterIP"] == "None"
    assert [port["port"] for port in service["ports"]] == [places["port"]]
    assert places["port"] == Settings().http_port == WORKER["ports"][0]["containerPort"]
    labels = OBJECTS["StatefulSet", "read-states"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
