"""The versions and settings of broker and database that the stack and docker-compose.yml share.

Both must start the same two servers; tests/unit/ops/test_compose.py compares them.
"""

KAFKA_VERSION = "4.3.1"
CASSANDRA_VERSION = "5.0.6"
# The best one first. Kafka 4 needs at least 17. Cassandra 5.0 is made for 11 and 17; it runs on 21
# with an option (cassandra-jvm17.options), and not on 24, which has no security manager.
JAVA_VERSIONS = (17, 21)

KAFKA_HEAP = "512m"
CASSANDRA_HEAP = "1g"

# Of servers that live for minutes: only the quick compiler. The other one makes code that is faster
# in the end, but takes more of the processor to make it than such a run would ever get back.
BRIEF_JVM = ("-XX:TieredStopAtLevel=1",)

LOCAL_DC = "datacenter1"  # what SimpleSnitch calls every node's data center
CASSANDRA_SETTINGS: dict[str, str | int] = {
    "num_tokens": 1,
    "endpoint_snitch": "SimpleSnitch",
}
# A lone node has nobody to gossip with: waiting for that would cost about 8 s at each start.
CASSANDRA_JVM = ("-Dcassandra.skip_wait_for_gossip_to_settle=0",)


def broker_settings(brokers: int) -> dict[str, str]:
    """The broker settings that do not depend on where it runs, for `brokers` brokers (at least 1).

    Internal topics are copied to three brokers if there are three. Every other setting has Kafka's
    default, even `auto.create.topics.enable=true`: the service must cope with it.
    """
    copies = str(min(brokers, 3))
    min_isr = str(max(1, min(brokers, 3) - 1))
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": min_isr,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": min_isr,
        "group.initial.rebalance.delay.ms": "0",
    }
