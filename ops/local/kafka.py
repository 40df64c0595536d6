"""A Kafka broker of the local stack: KRaft, broker and controller in one process.

`prepare` writes its settings and formats its folder, `command` returns the command that starts it,
and `answers` asks it for metadata over Kafka's own protocol.
"""

import socket
import subprocess
from importlib import resources
from pathlib import Path

from . import archive, credentials
from .cluster import KAFKA, Cluster, Node
from .errors import StartFailed
from .settings import BRIEF_JVM, KAFKA_HEAP, broker_settings

FORMAT_TIMEOUT_S = 60.0
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
PORT_TAKEN = ("Address already in use", "failed to bind to")


def server_properties(cluster: Cluster, node: Node) -> dict[str, str]:
    """All settings of one broker: the shared ones, and its addresses and folders."""
    voters = ",".join(f"{n.number}@{n.address}:{n.peer_port}" for n in cluster.of(KAFKA))
    protocol = "SASL_SSL" if cluster.secure else "PLAINTEXT"
    listener = f"{protocol}://{node.address}:{node.port}"
    return {
        **broker_settings(len(cluster.of(KAFKA))),
        **(_secure_settings(credentials.load(cluster.data_dir)) if cluster.secure else {}),
        "node.id": str(node.number),
        "controller.quorum.voters": voters,
        "listeners": f"{listener},CONTROLLER://{node.address}:{node.peer_port}",
        "advertised.listeners": listener,
        "log.dirs": str(cluster.state_dir(node)),
    }


def _secure_settings(known: credentials.Secrets) -> dict[str, str]:
    """TLS and a login (SCRAM or PLAIN) at every listener; nothing is allowed without an ACL."""
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    user, password = credentials.USER, known.kafka
    plain = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="{user}" password="{password}" user_{user}="{password}";'
    )
    return {
        "inter.broker.listener.name": "SASL_SSL",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:SASL_SSL",
        "sasl.enabled.mechanisms": ",".join((*SCRAM, "PLAIN")),
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": plain,
        "listener.name.sasl_ssl.plain.sasl.jaas.config": plain,
        **{f"listener.name.sasl_ssl.{m.lower()}.sasl.jaas.config": scram for m in SCRAM},
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": str(known.servers),
        "ssl.keystore.password": known.keystore,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(known.ca),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{credentials.USER}",
    }


def prepare(cluster: Cluster, node: Node, java: str, lib: Path) -> None:
    """Writes the settings and, the first time, formats the log folder (a JVM of about 1 s).

    Raises StartFailed with what the format tool said.
    """
    conf = cluster.conf_dir(node)
    conf.mkdir(parents=True, exist_ok=True)
    properties = server_properties(cluster, node)
    text = "".join(f"{key}={_escaped(value)}\n" for key, value in properties.items())
    credentials.write_private(conf / "server.properties", text)
    template = resources.files(__package__).joinpath("kafka-log4j2.xml").read_text("utf-8")
    (conf / "log4j2.xml").write_text(template, "utf-8")
    if (cluster.state_dir(node) / "meta.properties").exists():
        return
    argv = [*_java(java, cluster, node, lib, "128m", *BRIEF_JVM)]
    argv += ["kafka.tools.StorageTool", "format"]
    argv += ["--cluster-id", cluster.cluster_id, "--config", str(conf / "server.properties")]
    if cluster.secure:
        argv.append(f"@{_scram_users(conf, credentials.load(cluster.data_dir))}")
    try:
        done = subprocess.run(
            [*argv, "--ignore-formatted"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StartFailed(f"{node.name}: formatting took over {FORMAT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise StartFailed(
            f"{node.name}: formatting its log folder failed:\n{done.stdout}{done.stderr}"
        )


def _scram_users(conf: Path, known: credentials.Secrets) -> Path:
    """Put arguments into a file: on the command line every user of the machine would see them."""
    users = (f"{m}=[name={credentials.USER},password={known.kafka}]" for m in SCRAM)
    path = conf / "scram.arguments"
    credentials.write_private(path, "".join(f"--add-scram\n{user}\n" for user in users))
    return path


def command(cluster: Cluster, node: Node, java: str, lib: Path) -> list[str]:
    """The command that starts the broker."""
    properties = cluster.conf_dir(node) / "server.properties"
    more = (*BRIEF_JVM, *archive.options(java, lib, KAFKA)) if cluster.brief else ()
    return [*_java(java, cluster, node, lib, KAFKA_HEAP, *more), "kafka.Kafka", str(properties)]


def answers(cluster: Cluster, node: Node, timeout_s: float) -> bool:
    """True if this very broker gives metadata with every broker of the stack in it."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:  # first without librdkafka, which reports a refused connection on stderr
        socket.create_connection((node.address, node.port), timeout_s).close()
    except OSError:
        return False
    try:
        login = credentials.load(cluster.data_dir).kafka_config() if cluster.secure else {}
        metadata = AdminClient(
            {
                **login,
                "bootstrap.servers": node.endpoint,
                "client.id": "read-states-stack",
                "log_level": 0,
                "error_cb": lambda _error: None,
            }
        ).list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    brokers = {n.number for n in cluster.of(KAFKA)}
    return metadata.cluster_id == cluster.cluster_id and set(metadata.brokers) == brokers


def _java(java: str, cluster: Cluster, node: Node, lib: Path, heap: str, *more: str) -> list[str]:
    return [
        java,
        f"-Xmx{heap}",
        *more,
        "-XX:+UseParallelGC",  # batches of half a megabyte and more cost G1 twice the CPU
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Djava.io.tmpdir={cluster.conf_dir(node)}",  # where it unpacks its native libraries
        f"-Dlog4j2.configurationFile={(cluster.conf_dir(node) / 'log4j2.xml').as_uri()}",
        "-cp",
        str(lib / "*"),
    ]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
