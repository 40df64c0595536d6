"""A Cassandra node of the local stack.

`prepare` fills in its cassandra.yaml, `command` returns the command that starts it, and `answers`
sends it a query over CQL. This module gives the nodes even shares of the token ring, so that a node
that joins need not ask for one.
"""

import json
from importlib import resources
from pathlib import Path
from string import Template

from . import archive, cql, credentials
from .cluster import CASSANDRA, Cluster, Node
from .settings import BRIEF_JVM, CASSANDRA_HEAP, CASSANDRA_JVM, CASSANDRA_SETTINGS

# How long a joining node watches the ring first: the default of 30 s is for networks.
JOINING_JVM = ("-Dcassandra.ring_delay_ms=5000",)
# The first user is made at once: the default of 10 s is for a ring whose nodes would all make it.
SECURE_JVM = ("-Dcassandra.superuser_setup_delay_ms=0",)
OPEN: dict[str, str | bool] = {
    "authenticator": "AllowAllAuthenticator",
    "authorizer": "AllowAllAuthorizer",
    "role_manager": "CassandraRoleManager",
    "tls": False,
    "keystore": "",
    "keystore_password": "",
}
PORT_TAKEN = ("Address already in use", "Failed to bind port", "is in use by another process")


def cluster_name(cluster: Cluster) -> str:
    return f"read-states {cluster.cluster_id}"


def yaml_values(cluster: Cluster, node: Node) -> dict[str, str | int | bool]:
    """The values for cassandra.yaml: the shared settings, and the node's addresses and folders."""
    state = cluster.state_dir(node)
    nodes = cluster.of(CASSANDRA)
    folders = ("data", "commitlog", "hints", "saved_caches", "cdc_raw")
    return {
        **CASSANDRA_SETTINGS,
        **{folder: str(state / folder) for folder in folders},
        "cluster_name": cluster_name(cluster),
        "initial_token": str(-(2**63) + 1 + (node.number - 1) * (2**64 // len(nodes))),
        "address": node.address,
        "port": node.port,
        "peer_port": node.peer_port,
        "seeds": f"{nodes[0].address}:{nodes[0].peer_port}",
        **(_secure_values(credentials.load(cluster.data_dir)) if cluster.secure else OPEN),
    }


def _secure_values(known: credentials.Secrets) -> dict[str, str | bool]:
    return {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "role_manager": "CassandraRoleManager",
        "tls": True,
        "keystore": str(known.servers),
        "keystore_password": known.keystore,
    }


def prepare(cluster: Cluster, node: Node, java: str, lib: Path) -> None:
    """Writes the node's settings."""
    conf = cluster.conf_dir(node)
    conf.mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "triggers"):
        (cluster.state_dir(node) / folder).mkdir(parents=True, exist_ok=True)
    values = {name: json.dumps(value) for name, value in yaml_values(cluster, node).items()}
    text = Template(_resource("cassandra.yaml")).substitute(values)
    credentials.write_private(conf / "cassandra.yaml", text)
    (conf / "logback.xml").write_text(_resource("cassandra-logback.xml"), "utf-8")


def command(cluster: Cluster, node: Node, java: str, lib: Path) -> list[str]:
    """The command that starts the node."""
    conf, state = cluster.conf_dir(node), cluster.state_dir(node)
    options = [
        line
        for line in _resource("cassandra-jvm17.options").splitlines()
        if line and not line.startswith("#")
    ]
    return [
        java,
        f"-Xms{CASSANDRA_HEAP}",
        f"-Xmx{CASSANDRA_HEAP}",
        *options,
        *(() if cluster.brief else _agents(lib)),
        *CASSANDRA_JVM,
        *((*BRIEF_JVM, *archive.options(java, lib, CASSANDRA)) if cluster.brief else ()),
        *(SECURE_JVM if cluster.secure else ()),
        *(JOINING_JVM if len(cluster.of(CASSANDRA)) > 1 else ()),
        f"-Dcassandra.config={(conf / 'cassandra.yaml').as_uri()}",
        f"-Dlogback.configurationFile={conf / 'logback.xml'}",
        f"-Dcassandra.storagedir={state}",
        f"-Dcassandra.triggers_dir={state / 'triggers'}",
        f"-Dcassandra.logdir={cluster.log_path(node).parent}",
        f"-Djava.io.tmpdir={state / 'tmp'}",
        f"-Djna.tmpdir={state / 'tmp'}",
        "-Dcassandra-foreground=yes",
        "-cp",
        str(lib / "*"),
        "org.apache.cassandra.service.CassandraDaemon",
    ]


def _agents(lib: Path) -> list[str]:
    """Jamm, which measures objects exactly; without it Cassandra estimates their sizes.

    An archive of classes cannot be made or used beside an agent.
    """
    return [f"-javaagent:{jar}" for jar in sorted(lib.glob("jamm-*.jar"))]


def answers(cluster: Cluster, node: Node, timeout_s: float) -> bool:
    """True if this very node answers a query, and knows the nodes that were there before it."""
    names, peers = "SELECT cluster_name FROM system.local", "SELECT peer FROM system.peers_v2"
    try:
        login = _login(cluster, node, timeout_s) if cluster.secure else None
        name = cql.query(node.address, node.port, names, timeout_s, login)
        known = cql.query(node.address, node.port, peers, timeout_s) if node.number > 1 else []
    except (OSError, cql.CqlError):
        return False
    is_ours = name == [[cluster_name(cluster).encode()]]
    return is_ours and len(known) >= node.number - 1


def _login(cluster: Cluster, node: Node, timeout_s: float) -> cql.Login:
    """Our login; the first start makes it, and disables the default one that everybody knows."""
    known = credentials.load(cluster.data_dir)
    ours = cql.Login(credentials.USER, known.cassandra, known.context())

    def run(statement: str, login: cql.Login) -> None:
        cql.query(node.address, node.port, statement, timeout_s, login)

    try:
        run("SELECT cluster_name FROM system.local", ours)
    except cql.LoginError:
        rights = f"PASSWORD = '{ours.password}' AND LOGIN = true AND SUPERUSER = true"
        run(
            f"CREATE ROLE IF NOT EXISTS {ours.user} WITH {rights}",
            cql.Login("cassandra", "cassandra", ours.tls),
        )
        run("ALTER ROLE cassandra WITH SUPERUSER = false AND LOGIN = false", ours)
    return ours


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
