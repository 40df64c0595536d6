"""The CQL statements: what they name, and what a keyspace may be called."""

from __future__ import annotations

import pytest

from readstates.schemas.cql import statements

SIMPLE = "{'class': 'SimpleStrategy', 'replication_factor': 1}"


def test_statements() -> None:
    keyspace, table, log, epochs, *upgrades = statements("other", SIMPLE)
    assert keyspace == f"CREATE KEYSPACE IF NOT EXISTS other WITH replication = {SIMPLE}"
    assert table.startswith("CREATE TABLE IF NOT EXISTS other.read_states (")
    assert "PRIMARY KEY ((user_id), read_state_type, channel_id)" in table
    assert log.startswith("CREATE TABLE IF NOT EXISTS other.log (")
    first_offsets, database_id = "first_offsets frozen<list<bigint>>", "database_id uuid"
    assert epochs.startswith("CREATE TABLE IF NOT EXISTS other.epochs (")
    assert f" {first_offsets}," in log
    assert f" {database_id}" in log
    mentions, marks = "mentions frozen<list<bigint>>", "marks blob"
    assert f" {mentions}," in table
    assert f" {marks}," in table
    assert upgrades == [
        f"ALTER TABLE other.read_states ADD IF NOT EXISTS ({mentions}, {marks})",
        f"ALTER TABLE other.log ADD IF NOT EXISTS ({first_offsets}, {database_id})",
    ], "what a keyspace of an earlier version lacks"
    for one in (keyspace, table, log, epochs, *upgrades):
        assert "--" not in one
        assert "{{" not in one
        assert ";" not in one


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a;b", "a.b", "a" * 49, "é", "a\n"])
def test_a_keyspace_is_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="keyspace"):
        statements(name, SIMPLE)
