"""Settings: where they come from, what they may be, and what is never shown."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from readstates.streams.commands.options import describe
from readstates.streams.config import SECRETS, Settings, env_name
from readstates.streams.errors import ConfigError

RANGED = [field for field in fields(Settings) if field.metadata["range"]]


def test_defaults_are_allowed() -> None:
    Settings.load({})


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    environ = {"READ_STATES_KAFKA_GROUP": "env", "READ_STATES_HTTP_PORT": "7000"}
    settings = Settings.load(environ, kafka_group="flag", http_port=None)
    assert (settings.kafka_group, settings.http_port) == ("flag", 7000)
    assert settings.cassandra_port == 9042


@pytest.mark.parametrize("field", RANGED, ids=lambda field: field.name)
def test_outside_its_range_is_refused_by_name(field: Any) -> None:
    kind = type(field.default)
    low, high = field.metadata["range"]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"{env_name(field.name)}: .* is outside"):
            Settings.load({env_name(field.name): str(kind(value))})


@pytest.mark.parametrize("value", ["", "x", "1.5", "nan"])
def test_what_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="READ_STATES_HTTP_PORT: expected int"):
        Settings.load({"READ_STATES_HTTP_PORT": value})


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_float_must_be_finite(value: str) -> None:
    with pytest.raises(ConfigError, match="outside"):
        Settings.load({"READ_STATES_FLUSH_DELAY_S": value})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cache_states": 1000, "user_states_max": 501}, "half of CACHE_STATES"),
        ({"handover_timeout_s": 5, "session_timeout_s": 5}, "below SESSION_TIMEOUT_S"),
        ({"reply_topics": "("}, "REPLY_TOPICS"),
        ({"kafka_config": "a=b,c"}, "entry 2 has no '='"),
        ({"cassandra_password": "hidden"}, "without CASSANDRA_USERNAME"),
        ({"cassandra_tls_cert": "a"}, "without CASSANDRA_TLS_CA"),
        ({"cassandra_tls_key": "a"}, "without CASSANDRA_TLS_CA"),
        *(({"topic_prefix": p}, "TOPIC_PREFIX must") for p in ("", "a/b", "a\n", "ü", "a" * 201)),
        *(({"topic_prefix": p}, "like reply") for p in ("f-reply-a", "a.replies", "a.replies.b")),
        *(({"kafka_group": g}, "KAFKA_GROUP must") for g in ("", "../a", "a\0")),
        *(
            ({"cassandra_keyspace": k}, "CASSANDRA_KEYSPACE must")
            for k in ("", "1a", "a;DROP", "a b", "a" * 49)
        ),
    ],
)
def test_relations_are_checked(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Settings.load({}, **given)
    assert "hidden" not in str(caught.value)
    Settings.load({}, cache_states=1000, user_states_max=500)


@pytest.mark.parametrize(
    "good",
    [
        "{'class': 'SimpleStrategy', 'replication_factor': 1}",
        "{'class':'NetworkTopologyStrategy','dc1':'3','eu-west.2':3}",
        "{ 'dc1' : '3/1' , 'class' : 'org.apache.cassandra.locator.NetworkTopologyStrategy' }",
    ],
)
def test_replication_is_a_map(good: str) -> None:
    assert Settings.load({}, cassandra_replication=good).cassandra_replication == good


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{}",
        "3",
        "{'dc1': 3}",
        "{'class': 'SimpleStrategy', 'replication_factor': 1} AND durable_writes = false",
        "{'class': 'SimpleStrategy', 'replication_factor': 1}; DROP KEYSPACE system_auth",
        "{'class': 'SimpleStrategy', 'replication_factor': 1} -- {'class'}",
        "{'class': 'Simple''Strategy', 'replication_factor': 1}",
        "{'class': 'SimpleStrategy', 'replication_factor': -1}",
        "{'class': 'SimpleStrategy', 'replication_factor': 1}\n",
        "{{'class': 'SimpleStrategy'}}",
    ],
)
def test_what_is_no_map_never_reaches_a_statement(bad: str) -> None:
    with pytest.raises(ConfigError, match="CASSANDRA_REPLICATION"):
        Settings.load({}, cassandra_replication=bad)


def test_extra_kafka_settings() -> None:
    settings = Settings.load({}, kafka_config="a=b=c, d = e,,f ,")
    assert settings.kafka_extra == {"a": "b=c", "d": "e,f"}
    assert settings.librdkafka(d=1) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "allow.auto.create.topics": False,
        "a": "b=c",
        "d": 1,
    }


def test_secrets_are_not_shown() -> None:
    given = dict.fromkeys(SECRETS, "sasl.password=hidden")
    settings = Settings.load({}, cassandra_username="me", **given)
    assert "hidden" not in repr(settings) + str(settings)
    assert repr(settings).count("'***'") == len(SECRETS)
    assert "cassandra_password=''" in repr(Settings())


def test_no_part_of_a_password_is_in_an_error() -> None:
    """A comma in it, written once, cuts it in two."""
    with pytest.raises(ConfigError) as caught:
        Settings.load({}, kafka_config="sasl.username=me,sasl.password=hid,den")
    assert "den" not in str(caught.value).replace("hidden", "")


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_from_a_file(name: str, tmp_path: Path) -> None:
    """As Kubernetes and systemd hand them over; a last line break is not part of it."""
    (tmp_path / "secret").write_text("sasl.password=hidden\n")
    environ = {f"{env_name(name)}_FILE": str(tmp_path / "secret")}
    settings = Settings.load(environ, cassandra_username="me")
    assert getattr(settings, name) == "sasl.password=hidden"
    given: dict[str, Any] = {name: "a=flag"}
    assert getattr(Settings.load(environ, cassandra_username="me", **given), name) == "a=flag"
    with pytest.raises(ConfigError, match="both set"):
        Settings.load({**environ, env_name(name): "a=b"})
    with pytest.raises(ConfigError, match=f"{env_name(name)}_FILE: .*gone"):
        Settings.load({f"{env_name(name)}_FILE": str(tmp_path / "gone")})


def test_the_help_of_a_secret_says_how_to_hand_it_over() -> None:
    for field in fields(Settings):
        assert (f"{env_name(field.name)}_FILE" in describe(field)) == (field.name in SECRETS)


def test_the_topics_and_the_pattern_of_reply_topics() -> None:
    settings = Settings(topic_prefix="a.b")
    assert settings.updates_topic == "a.b.updates"
    assert settings.queries_topic == "a.b.queries"
    assert settings.dead_letters_topic == "a.b.dead-letters"
    match = settings.reply_topic_pattern.fullmatch
    assert match("a.b.replies.x")
    assert match("f-reply-1")
    assert not match("axb.replies.x")
    assert not match("a.b.updates")


def test_each_setting_is_described() -> None:
    for field in fields(Settings):
        assert field.metadata["help"] in describe(field)
