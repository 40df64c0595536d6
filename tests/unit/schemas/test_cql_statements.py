"""The CQL statements: what they name, and what a keyspace may be called."""

from __future__ import annotations

import re

import pytest

from readstates.schemas.cql import statements
from readstates.streams.cassandra.overlay import OVERLAY_TTL_S

SIMPLE = "{'class': 'SimpleStrategy', 'replication_factor': 1}"


def test_statements() -> None:
    keyspace, table, log, epochs, candidate, *upgrades = statements("other", SIMPLE)
    assert keyspace == f"CREATE KEYSPACE IF NOT EXISTS other WITH replication = {SIMPLE}"
    assert table.startswith("CREATE TABLE IF NOT EXISTS other.read_states (")
    assert "PRIMARY KEY ((user_id), read_state_type, channel_id)" in table
    assert log.startswith("CREATE TABLE IF NOT EXISTS other.log (")
    first_offsets, database_id = "first_offsets frozen<list<bigint>>", "database_id uuid"
    assert epochs.startswith("CREATE TABLE IF NOT EXISTS other.epochs (")
    assert f" {first_offsets}," in log
    assert f" {database_id}" in log
    assert candidate.startswith("CREATE TABLE IF NOT EXISTS other.read_states_candidate (")
    assert "PRIMARY KEY ((user_id, run), read_state_type, channel_id)" in candidate
    assert candidate.endswith(f"default_time_to_live = {OVERLAY_TTL_S}")
    of_base = set(re.findall(r"^ {4}([a-z_]+ (?:frozen<.*>|[a-z]+)),", table, re.MULTILINE))
    assert len(of_base) == 12, "the columns of read_states"
    of_candidate = set(
        re.findall(r"^ {4}([a-z_]+ (?:frozen<.*>|[a-z]+)),", candidate, re.MULTILINE)
    )
    assert of_candidate - of_base == {"run text", "deleted boolean"}
    assert of_base <= of_candidate
    mentions, marks = "mentions frozen<list<bigint>>", "marks blob"
    assert f" {mentions}," in table
    assert f" {marks}," in table
    assert upgrades == [
        f"ALTER TABLE other.read_states ADD IF NOT EXISTS ({mentions}, {marks})",
        f"ALTER TABLE other.log ADD IF NOT EXISTS ({first_offsets}, {database_id})",
    ], "what a keyspace of an earlier version lacks"
    for one in (keyspace, table, log, epochs, candidate, *upgrades):
        assert "--" not in one
        assert "{{" not in one
        assert ";" not in one


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a;b", "a.b", "a" * 49, "é", "a\n"])
def test_a_keyspace_is_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="keyspace"):
        statements(name, SIMPLE)
