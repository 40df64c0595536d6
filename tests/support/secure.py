"""A service on servers that want a login, and users of them with few rights."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from readstates.ops.local import cql, credentials
from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.service import Service
from tests.support.wire import encode

ENV = "READ_STATES_"
ACK = {"type": "ack", "channel_id": "5", "message_id": "6"}


def reply_to(correlation_id: bytes, message: Message | None) -> dict[str, Any] | None:
    if message is None:
        return None
    assert message.error() is None, message.error()
    value = message.value()
    assert value is not None
    is_ours = dict(message.headers() or [])["kafka_correlationId"] == correlation_id
    return json.loads(value) if is_ours else None


class Secure(Service):
    """A service on servers that let nobody in without a login."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.secrets = stack, credentials.load(stack.data_dir)
        self.bootstrap = stack.env()[f"{ENV}KAFKA_BOOTSTRAP"]
        super().__init__(stack.env(), folder, "secure")
        self.prefix = self.env[f"{ENV}TOPIC_PREFIX"]
        self.reply_topic = f"{self.prefix}.replies.test"
        self.admin = AdminClient(self.client())
        self.admin.create_topics([NewTopic(self.reply_topic, 1, 1)])[self.reply_topic].result(20)

    def client(self, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        return {"bootstrap.servers": self.bootstrap, **self.secrets.kafka_config(mechanism)}

    def worker(self, name: str, **env: str) -> WorkerProcess:
        """A worker that says all it has to say."""
        log = self.folder / f"secure-{name}.log"
        self.workers.append(WorkerProcess({**self.env, **env}, log, "--loglevel", "DEBUG").start())
        return self.workers[-1]

    def config(self, **changed: str) -> dict[str, str]:
        """KAFKA_CONFIG with other values; an empty one leaves its key out."""
        given = {
            **self.secrets.kafka_config(),
            **{k.replace("_", "."): v for k, v in changed.items()},
        }
        return {f"{ENV}KAFKA_CONFIG": ",".join(f"{k}={v}" for k, v in given.items() if v)}

    def run(self, *arguments: str, **env: str) -> str:
        """What a command that must fail says."""
        done = self.cli_with(env, *arguments)
        assert done.returncode != 0
        return done.stdout + done.stderr

    def cli_with(self, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command with some settings changed; an empty one is not set at all."""
        before = self.env
        self.env = {key: value for key, value in {**before, **env}.items() if value}
        try:
            return self.cli(*arguments)
        finally:
            self.env = before

    def cql(self, statement: str) -> list[list[bytes | None]]:
        login = cql.Login(credentials.USER, self.secrets.cassandra, self.secrets.context())
        host, port = (self.env[f"{ENV}CASSANDRA_{n}"] for n in ("HOSTS", "PORT"))
        return cql.query(host, int(port), statement, 20, login)

    def ack_and_ask(self, user: int, config: dict[str, str]) -> dict[str, Any]:
        """An ack and a query of it, by a plain producer; the reply."""
        correlation_id = uuid.uuid4().bytes
        consumer = Consumer(
            {**config, "group.id": "read-states-client-test", "enable.auto.commit": False}
        )
        producer = Producer({**config, "partitioner": "murmur2_random"})
        failed: list[object] = []

        def delivered(error: object, _message: object) -> None:
            if error:
                failed.append(error)

        try:
            consumer.assign([TopicPartition(self.reply_topic, 0, 0)])
            key = str(user)
            producer.produce(
                f"{self.prefix}.updates", encode(user, ACK), key, on_delivery=delivered
            )
            assert producer.flush(30) == 0
            headers = [
                ("kafka_replyTopic", self.reply_topic.encode()),
                ("kafka_correlationId", correlation_id),
            ]
            query = encode(user, {"type": "get"})
            end = time.monotonic() + 30
            while time.monotonic() < end:  # asked again until the ack has been applied
                producer.produce(
                    f"{self.prefix}.queries", query, key, headers=headers, on_delivery=delivered
                )
                assert producer.flush(30) == 0
                assert failed == []
                found = reply_to(correlation_id, consumer.poll(2))
                if found is not None and found.get("read_states"):
                    return found
            raise AssertionError("no reply")
        finally:
            consumer.close()


def allow(
    user: str, kind: ResourceType, name: str, *operations: str, prefixed: bool = False
) -> list[AclBinding]:
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    who, to = (f"User:{user}", "*"), AclPermissionType.ALLOW
    return [AclBinding(kind, name, pattern, *who, AclOperation[one], to) for one in operations]


def new_kafka_user(secure: Secure, name: str, acls: list[AclBinding]) -> dict[str, str]:
    """A user with these rights; how its KAFKA_CONFIG differs."""
    password = f"password-of-{name}"
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(name, info, password.encode())
    secure.admin.alter_user_scram_credentials([change])[name].result(20)
    for future in secure.admin.create_acls(acls).values():
        future.result(20)
    return {"sasl_username": name, "sasl_password": password}


def new_cassandra_user(secure: Secure, name: str, *rights: str) -> dict[str, str]:
    """A user with these rights, and its settings."""
    password = f"password-of-{name}"
    secure.cql(f"CREATE ROLE {name} WITH PASSWORD = '{password}' AND LOGIN = true")
    for right in rights:
        secure.cql(f"GRANT {right} TO {name}")
    return {f"{ENV}CASSANDRA_USERNAME": name, f"{ENV}CASSANDRA_PASSWORD": password}
