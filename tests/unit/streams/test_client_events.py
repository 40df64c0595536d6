"""Each method of the client publishes its event, with every field that the event has."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import fields

from readstates.schemas import events as e
from readstates.schemas.wire import decode_update
from readstates.streams.client import BlockingClient, Client

Publish = Callable[[Client], Awaitable[int]]

METHODS: list[tuple[Publish, e.Update]] = [
    (lambda c: c.ack(1, 2, 3), e.Ack(1, 2, 3)),
    (
        lambda c: c.ack(1, 2, 3, read_state_type=4, flags=5, last_viewed=6, if_version=7),
        e.Ack(1, 2, 3, 4, 5, 6, 7),
    ),
    (lambda c: c.ack(user_id=1, channel_id=2, message_id=3, flags=0), e.Ack(1, 2, 3, 0, 0)),
    (lambda c: c.mark_unread(1, 2, 3), e.MarkUnread(1, 2, 3)),
    (lambda c: c.mark_unread(1, 2, 3, 0), e.MarkUnread(1, 2, 3, 0)),
    (lambda c: c.mark_unread(1, 2, 3, mention_ids=[]), e.MarkUnread(1, 2, 3, mention_ids=())),
    (
        lambda c: c.mark_unread(
            1, 2, 3, mention_ids=iter((5, 4)), read_state_type=6, flags=7, last_viewed=8
        ),
        e.MarkUnread(1, 2, 3, e.KEEP, (4, 5), 6, 7, 8),
    ),
    (lambda c: c.bulk_ack(1, [(2, 3), (2, 4, 5)]), e.BulkAck(1, ((0, 2, 3), (5, 2, 4)))),
    (lambda c: c.mention(1, 2, 3), e.Mention(1, 2, 3)),
    (lambda c: c.mention(1, 2, 3, edit=4, read_state_type=5), e.Mention(1, 2, 3, 5, 4)),
    (lambda c: c.retract_mention(1, 2, 3), e.RetractMention(1, 2, 3)),
    (
        lambda c: c.retract_mention(1, 2, 3, edit=0, read_state_type=5),
        e.RetractMention(1, 2, 3, 5, 0),
    ),
    (lambda c: c.pins_ack(1, 2, 3, read_state_type=4), e.PinsAck(1, 2, 3, 4)),
    (
        lambda c: c.set_options(1, 2, flags=0, last_viewed=4, read_state_type=5),
        e.SetOptions(1, 2, 5, 0, 4),
    ),
    (lambda c: c.merge(1, 2), e.Merge(1, 2)),
    (
        lambda c: c.merge(
            1,
            2,
            last_message_id=3,
            mention_ids=[5, 4],
            mention_count=6,
            last_pin_timestamp=7,
            flags=8,
            last_viewed=9,
            read_state_type=10,
        ),
        e.Merge(1, 2, 10, 3, (4, 5), 6, 7, 8, 9),
    ),
    (lambda c: c.delete(1, 2), e.Delete(1, 2)),
    (lambda c: c.delete(1, 2, up_to=3, read_state_type=4), e.Delete(1, 2, 4, 3)),
    (lambda c: c.delete_user(1), e.DeleteUser(1)),
    (lambda c: c.delete_user(1, final=True), e.DeleteUser(1, True)),
    (lambda c: c.restore_user(1), e.RestoreUser(1)),
]
REFUSED: list[tuple[Publish, str]] = [
    (lambda c: c.mark_unread(1, 2, 3, 4, mention_ids=[5]), "either mention_count or mention_ids"),
    (lambda c: c.mark_unread(1, 2, 3, mention_ids=[3]), "IDs above message_id 3"),
    (lambda c: c.set_options(1, 2), "flags or last_viewed"),
    (lambda c: c.ack(1, 2, 0), "message_id"),
    (lambda c: c.ack(1, 2, 3, flags=-1), "flags: expected 0 or more, got -1"),
    (lambda c: c.delete(1, 2, up_to=0), "up_to"),
]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client without brokers, whose records are in `published`."""
    made = Client("127.0.0.1:1", "replies")
    made.published = []  # type: ignore[attr-defined]  # of this test

    async def publish(key: bytes, value: bytes) -> int:
        made.published.append((key, value))  # type: ignore[attr-defined]  # as above
        return 7

    monkeypatch.setattr(made._connection, "publish", publish)
    return made


@pytest.mark.parametrize(("method", "event"), METHODS)
async def test_a_method_publishes_its_event(
    client: Client, method: Publish, event: e.Update
) -> None:
    assert await method(client) == 7
    ((key, value),) = client.published  # type: ignore[attr-defined]  # of the fixture
    assert key == b"1"
    assert decode_update(value) == event


@pytest.mark.parametrize(("method", "said"), REFUSED)
async def test_what_the_service_would_refuse_is_not_sent(
    client: Client, method: Publish, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        await method(client)
    assert client.published == []  # type: ignore[attr-defined]  # of the fixture


def default_of(form: Any, name: str) -> Any:
    (field,) = (field for field in fields(form) if field.name == name)
    return field.default


def test_every_event_and_every_field_has_been_tried() -> None:
    tried = [event for _, event in METHODS]
    assert {type(event) for event in tried} == set(e.Update.__args__)
    for form in e.Update.__args__:
        for field in form.__struct_fields__:
            values = {getattr(event, field) for event in tried if type(event) is form}
            given = values - {default_of(form, field)}
            assert given, (form, field)


def test_the_blocking_client_has_the_same_methods() -> None:
    wanted = {
        name
        for name, method in vars(Client).items()
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    }
    iterators = {"changes", "mirror"}  # of their own kind in each client
    assert iterators <= vars(Client).keys()
    methods = {name for name in vars(BlockingClient) if not name.startswith("_")}
    assert wanted - {"start", "close"} == methods - iterators
    assert iterators <= methods
    for name in wanted - {"start", "close"}:
        assert inspect.unwrap(getattr(BlockingClient, name)) is getattr(Client, name)
