"""TLS and logins against servers that insist on them, and no password anywhere else.

Clients here are plain confluent-kafka. The last test takes the servers away.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBindingFilter,
    ResourceType,
)

from readstates.ops.local import cql, credentials
from readstates.ops.local.credentials import Secrets
from readstates.ops.local.java import find_java
from readstates.ops.local.owner import Owner
from readstates.ops.local.settings import LOCAL_DC
from readstates.ops.local.worker import WorkerProcess
from tests.support.runbook import blocks_of
from tests.support.secure import (
    ENV,
    Secure,
    allow,
    new_cassandra_user,
    new_kafka_user,
)
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user


@pytest.fixture(scope="module")
def secure(owner: Owner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    stack = owner.stack("secure", secure=True, brief=True)
    try:
        service = Secure(stack, tmp_path_factory.mktemp("workers"))
        try:
            yield service
        finally:
            service.close()
    finally:
        stack.down(remove=True)


def without_passwords(known: Secrets, *texts: str) -> None:
    for text in texts:
        for password in (known.kafka, known.cassandra, known.keystore):
            assert password not in text


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
def test_an_ack_is_applied_and_a_query_answered(secure: Secure, mechanism: str) -> None:
    user = new_user()
    worker = secure.worker(mechanism, **secure.config(sasl_mechanism=mechanism))
    try:
        worker.wait_ready()
        (state,) = secure.ack_and_ask(user, secure.client(mechanism))["read_states"]
        assert state["last_message_id"] == "6"
        metrics = worker.get("/metrics")[1]
    finally:
        assert worker.stop() == 0
    assert f"user=admin mechanism={mechanism}" in worker.output()
    assert "DEBUG" in worker.output()
    without_passwords(secure.secrets, worker.output(), metrics)
    keyspace = secure.env[f"{ENV}CASSANDRA_KEYSPACE"]
    rows = secure.cql(f"SELECT channel_id FROM {keyspace}.read_states WHERE user_id = {user}")
    assert rows == [[(5).to_bytes(8, "big")]]


@pytest.mark.parametrize("command", [("worker",), ("init",), ("get", "1"), ("ack", "1", "2", "3")])
def test_a_wrong_kafka_password_is_refused(secure: Secure, command: tuple[str, ...]) -> None:
    said = secure.run(*command, **secure.config(sasl_password="wrong-one"))
    assert "Check sasl.mechanism, sasl.username and sasl.password in KAFKA_CONFIG" in said
    assert "Traceback" not in said
    assert "wrong-one" not in said
    without_passwords(secure.secrets, said)


def test_kafka_without_tls_or_trust_is_refused(secure: Secure) -> None:
    plain = secure.run("worker", **{f"{ENV}KAFKA_CONFIG": ""})
    assert "need security.protocol in KAFKA_CONFIG" in plain
    login_only = secure.run(
        "worker", **secure.config(security_protocol="SASL_PLAINTEXT", ssl_ca_location="")
    )
    assert "security.protocol" in login_only
    untrusted = secure.run("worker", **secure.config(ssl_ca_location=""))  # the system's CAs
    assert "Check ssl.ca.location in KAFKA_CONFIG" in untrusted
    for said in (plain, login_only, untrusted):
        assert "Traceback" not in said
        without_passwords(secure.secrets, said)


def test_cassandra_without_login_or_trust_is_refused(secure: Secure) -> None:
    wrong = secure.run("worker", **{f"{ENV}CASSANDRA_PASSWORD": "wrong-one"})
    assert "Check CASSANDRA_USERNAME and CASSANDRA_PASSWORD" in wrong
    assert "wrong-one" not in wrong
    nobody = {f"{ENV}CASSANDRA_USERNAME": "", f"{ENV}CASSANDRA_PASSWORD": ""}
    assert "Check CASSANDRA_USERNAME" in secure.run("init", **nobody)
    plain = secure.run("worker", **{f"{ENV}CASSANDRA_TLS_CA": ""})
    assert "nodes that want TLS need CASSANDRA_TLS_CA" in plain
    (secure.folder / "other").mkdir()
    credentials.make(secure.folder / "other", find_java())
    other = credentials.load(secure.folder / "other")
    untrusted = secure.run("worker", **{f"{ENV}CASSANDRA_TLS_CA": str(other.ca)})
    assert "Check CASSANDRA_TLS_CA" in untrusted
    for said in (wrong, plain, untrusted):
        assert "Traceback" not in said
        without_passwords(secure.secrets, said)


def test_the_login_that_everybody_knows_is_shut(secure: Secure) -> None:
    host, port = (secure.env[f"{ENV}CASSANDRA_{n}"] for n in ("HOSTS", "PORT"))
    known = cql.Login("cassandra", "cassandra", secure.secrets.context())
    with pytest.raises(cql.LoginError):
        cql.query(host, int(port), "SELECT cluster_name FROM system.local", 20, known)


def test_no_password_where_others_look(secure: Secure) -> None:
    folder = secure.stack.data_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    holding = set()
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_relative_to(folder / "data"):
            continue
        text = path.read_bytes().decode(errors="replace")
        passwords = (secure.secrets.kafka, secure.secrets.cassandra, secure.secrets.keystore)
        if any(password in text for password in passwords):
            holding.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert holding == {"passwords.json", "server.properties", "scram.arguments", "cassandra.yaml"}
    for server in secure.stack.status().processes:
        arguments = Path(f"/proc/{server.pid}/cmdline")
        if arguments.exists():
            without_passwords(secure.secrets, arguments.read_text())
    for command in ("worker", "init", "get", "ack"):
        help_text = secure.cli(command, "--help").stdout
        assert "KAFKA_CONFIG_FILE" in help_text
        without_passwords(secure.secrets, help_text)


def test_secrets_from_files(secure: Secure) -> None:
    env: dict[str, str] = {}
    for name in ("KAFKA_CONFIG", "CASSANDRA_PASSWORD"):
        path = secure.folder / name
        path.write_text(secure.env[f"{ENV}{name}"] + "\n")
        env |= {f"{ENV}{name}": "", f"{ENV}{name}_FILE": str(path)}
    done = secure.cli_with(env, "init", "--partitions", str(PARTITIONS))
    assert done.returncode == 0, done.stderr


def test_the_rights_of_init(secure: Secure) -> None:
    """Those of SECURITY.md are enough to make everything."""
    topic, operations = ResourceType.TOPIC, ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS")
    acls = allow("rs_init", topic, "it-other.", *operations, prefixed=True)
    acls += allow("rs_init", topic, "it-other.epochs", "READ", "WRITE")
    env = {
        **secure.config(**new_kafka_user(secure, "rs_init", acls)),
        **new_cassandra_user(secure, "rs_init", "CREATE ON ALL KEYSPACES"),
        f"{ENV}TOPIC_PREFIX": "it-other",
        f"{ENV}CASSANDRA_KEYSPACE": "it_other",
    }
    for _ in range(2):
        done = secure.cli_with(env, "init", "--partitions", "2")
        assert done.returncode == 0, done.stderr
    elsewhere = secure.run("init", **{**env, f"{ENV}TOPIC_PREFIX": "it-third"})
    assert "cannot create topic it-third." in elsewhere


def test_the_rights_of_a_worker_and_a_client(secure: Secure) -> None:
    """Those of SECURITY.md are enough for all that they do."""
    topic, group, prefix = ResourceType.TOPIC, ResourceType.GROUP, secure.prefix
    keyspace = secure.env[f"{ENV}CASSANDRA_KEYSPACE"]
    as_worker = new_kafka_user(
        secure,
        "rs_worker",
        [
            *allow("rs_worker", topic, f"{prefix}.updates", "READ", "DESCRIBE_CONFIGS"),
            *allow("rs_worker", topic, f"{prefix}.queries", "READ", "WRITE", "DESCRIBE_CONFIGS"),
            *allow("rs_worker", topic, f"{prefix}.dead-letters", "WRITE", "DESCRIBE_CONFIGS"),
            *allow("rs_worker", topic, f"{prefix}.probes", "READ", "WRITE"),
            *allow("rs_worker", topic, f"{prefix}.epochs", "READ", "WRITE"),
            *allow("rs_worker", topic, f"{prefix}.rollout", "READ"),
            *allow("rs_worker", topic, f"{prefix}.replies.", "WRITE", prefixed=True),
            *allow("rs_worker", group, secure.group, "READ"),
        ],
    )
    as_client = new_kafka_user(
        secure,
        "rs_client",
        [
            *allow("rs_client", topic, f"{prefix}.updates", "WRITE"),
            *allow("rs_client", topic, f"{prefix}.queries", "WRITE"),
            *allow("rs_client", topic, f"{prefix}.replies.", "READ", "CREATE", prefixed=True),
            *allow("rs_client", group, "read-states-client-", "DESCRIBE", prefixed=True),
        ],
    )
    rights = (f"SELECT ON KEYSPACE {keyspace}", f"MODIFY ON KEYSPACE {keyspace}")
    in_cassandra = new_cassandra_user(secure, "rs_worker", *rights)
    worker = secure.worker("least", **secure.config(**as_worker), **in_cassandra)
    client = {
        **secure.client(),
        "sasl.username": "rs_client",
        "sasl.password": as_client["sasl_password"],
    }
    try:
        worker.wait_ready()
        user = new_user()
        assert secure.ack_and_ask(user, client)["read_states"]
        until(lambda: worker.metrics().get("read_states_probe_seconds_count"), "an answered probe")
        assert not worker.metrics().get("read_states_probe_failures_total")
        shell = secure.cli_with(secure.config(**as_client), "get", str(user))
        assert shell.returncode == 0, shell.stderr
        bad = Producer({**client, "partitioner": "murmur2_random"})
        bad.produce(f"{prefix}.updates", b"{", str(user))
        assert bad.flush(30) == 0
        places = [TopicPartition(f"{prefix}.dead-letters", n) for n in range(PARTITIONS)]
        reader = Consumer({**secure.client(), "group.id": "ends"})
        try:
            until(
                lambda: sum(reader.get_watermark_offsets(place, 20)[1] for place in places),
                "the dead letter",
            )
        finally:
            reader.close()
    finally:
        assert worker.stop() == 0
    select = f"SELECT channel_id FROM {keyspace}.read_states WHERE user_id = {user}"
    assert secure.cql(select) == [[(5).to_bytes(8, "big")]]
    said = worker.output()
    assert "authoriz" not in said.lower().replace("unauthorized_partitions", "")
    assert as_worker["sasl_password"] not in said


def as_printed(secure: Secure, page: str, named: str, password: str = "") -> None:
    """The statements of the command of a runbook that has `named` in it, for one node."""
    (command,) = (c for block in blocks_of(page) for c in block if named in c and "cqlsh" in c)
    text = re.search(r"<<END\n(.*)\nEND$|-e \"(.*)\"$", command, re.DOTALL)
    assert text is not None, command
    for statement in (text[1] or text[2]).split(";"):
        if statement.strip():
            with_password = statement.replace("$(cat cassandra-password)", password)
            secure.cql(with_password.replace("'dc1': 3", f"'{LOCAL_DC}': 1"))


def test_the_cassandra_login_is_made_and_rotated_by_the_book(secure: Secure) -> None:
    as_printed(secure, "deploy", "CREATE ROLE", "first")
    env = {
        f"{ENV}TOPIC_PREFIX": "it-book",
        f"{ENV}KAFKA_GROUP": "it-book",
        f"{ENV}CASSANDRA_KEYSPACE": "read_states",
        f"{ENV}CASSANDRA_USERNAME": "read_states",
        f"{ENV}CASSANDRA_PASSWORD": "first",
    }
    done = secure.cli_with(env, "init", "--partitions", "2")
    assert done.returncode == 0, done.stderr
    before = secure.worker("first-login", **env)
    before.wait_ready()
    as_printed(secure, "rotate", "CREATE ROLE", "second")
    assert before.stop() == 0
    rotated = {f"{ENV}CASSANDRA_USERNAME": "readstates_b", f"{ENV}CASSANDRA_PASSWORD": "second"}
    after = secure.worker("second-login", **{**env, **rotated})
    after.wait_ready()
    as_printed(secure, "rotate", "LOGIN = false")

    def is_shut() -> bool:  # Cassandra keeps for seconds what it knows of a role
        host, port = (secure.env[f"{ENV}CASSANDRA_{n}"] for n in ("HOSTS", "PORT"))
        login = cql.Login("read_states", "first", secure.secrets.context())
        try:
            cql.query(host, int(port), "SELECT cluster_name FROM system.local", 20, login)
        except cql.LoginError:
            return True
        return False

    until(is_shut, "nobody can log in with the old password")
    done = secure.cli_with({**env, **rotated}, "init")
    assert done.returncode == 0, done.stderr
    assert after.get("/readyz")[0] == 200
    assert after.stop() == 0


def test_read_withdrawn_from_a_running_worker(secure: Secure) -> None:
    """It ends with one line that says what to do."""
    topic, group, prefix = ResourceType.TOPIC, ResourceType.GROUP, secure.prefix
    read = allow("rs_loser", topic, f"{prefix}.updates", "READ")
    as_loser = new_kafka_user(
        secure,
        "rs_loser",
        [
            *read,
            *allow("rs_loser", topic, f"{prefix}.updates", "DESCRIBE_CONFIGS"),
            *allow("rs_loser", topic, f"{prefix}.queries", "READ", "WRITE", "DESCRIBE_CONFIGS"),
            *allow("rs_loser", topic, f"{prefix}.dead-letters", "WRITE", "DESCRIBE_CONFIGS"),
            *allow("rs_loser", group, secure.group, "READ"),
        ],
    )
    log = secure.folder / "secure-loser.log"
    worker = WorkerProcess({**secure.env, **secure.config(**as_loser)}, log).start()
    secure.workers.append(worker)
    worker.wait_ready()
    filters = [
        AclBindingFilter(
            one.restype,
            one.name,
            one.resource_pattern_type,
            one.principal,
            one.host,
            one.operation,
            one.permission_type,
        )
        for one in read
    ]
    for future in secure.admin.delete_acls(filters).values():
        future.result(20)
    until(lambda: worker.returncode is not None, "the worker ends", 90)
    said = worker.output()
    print(said)
    assert worker.returncode == 1
    assert "Traceback" not in said
    (line,) = (each for each in said.splitlines() if "CRITICAL" in each)
    assert "is not allowed to read" in line
    assert "SECURITY.md" in line


def test_a_worker_without_a_right_says_which(secure: Secure) -> None:
    topics = allow("rs_reader", ResourceType.TOPIC, f"{secure.prefix}.", "READ", prefixed=True)
    as_reader = new_kafka_user(secure, "rs_reader", topics)
    said = secure.run("worker", **secure.config(**as_reader))
    assert "cannot read the settings of topic" in said
    assert "DescribeConfigs" in said
    assert "Traceback" not in said


def test_no_password_in_the_errors_of_a_worker_whose_servers_are_gone(secure: Secure) -> None:
    worker = secure.worker("forsaken", **{f"{ENV}SHUTDOWN_TIMEOUT_S": "5"})
    worker.wait_ready()
    secure.stack.down()
    until(lambda: "Connect to ipv4#127.0.0.1" in worker.output(), "an error of a connection")
    until(lambda: "not_read topic=" in worker.output(), "an error of the readers")
    worker.stop()
    without_passwords(secure.secrets, worker.output())
    log = "".join(
        path.read_text(errors="replace") for path in (secure.stack.data_dir / "log").iterdir()
    )
    without_passwords(secure.secrets, log)
    assert os.listdir(secure.stack.data_dir / "secrets")
