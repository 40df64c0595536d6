"""Scenarios of badges from the field: events in a row, and what must be read after each step.

Users of chat software told them in public bug reports. Each one is a read state of one user, in
channel 7 and of type 0 unless it says otherwise. IDs are short: message 106 is the ID 106.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Event = dict[str, Any]

CHANNEL = 7
BAD_ID = 2**62  # far above every other ID


class Right(NamedTuple):
    """What a reply must say of the read state."""

    mention_count: int
    mentions: list[int]  # IDs of the mentioned marks; the count may be larger: see uncounted
    last: int
    flags: int = 0
    pins: int = 0


class Known(NamedTuple):
    """What a device knew when it sent an ack: the version that it read after a step, from 1."""

    step: int
    of: str = "reply"  # or "read_state": that one's own version


class Step(NamedTuple):
    """Events in a row, and the read state after the last; None: no reply has it."""

    events: list[Event]
    right: Right | None
    known: Known | None = None  # the events get an `if_version`


class Scenario(NamedTuple):
    """A row of steps. `place` is the read state that the steps speak of."""

    steps: list[Step]
    kind: int = 0
    channel: int = CHANNEL

    @property
    def place(self) -> Event:
        found: Event = {"channel_id": str(self.channel)}
        return {**found, "read_state_type": self.kind} if self.kind else found

    def event(self, event: Event) -> Event:
        """The event with the place that it concerns."""
        whole = event["type"] in {"bulk_ack", "delete_user", "restore_user"}
        return event if whole else {**self.place, **event}


def ack(message: int, **more: Any) -> Event:
    return {"type": "ack", "message_id": str(message), **more}


def unread(message: int, **more: Any) -> Event:
    return ack(message, manual=True, **more)


def mention(message: int, **more: Any) -> Event:
    return {"type": "mention", "message_id": str(message), **more}


def retract(message: int, **more: Any) -> Event:
    return {"type": "retract_mention", "message_id": str(message), **more}


def delete(up_to: int) -> Event:
    return {"type": "delete", "up_to": str(up_to)}


def _unread_again(*last: Step) -> Scenario:
    """Read to 110, and then marked unread with one mention."""
    return Scenario(
        [
            Step([mention(105)], Right(1, [105], 0)),
            Step([ack(110)], Right(0, [], 110)),
            Step([unread(104, mention_ids=["105"])], Right(1, [105], 104)),
            *last,
        ]
    )


def _read(*last: Step) -> Scenario:
    """Two mentions, both read."""
    return Scenario(
        [
            Step([mention(105), mention(106)], Right(2, [105, 106], 0)),
            Step([ack(110)], Right(0, [], 110)),
            *last,
        ]
    )


SCENARIOS: dict[str, Scenario] = {
    "1 a deleted message takes its mention with it, no other": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(105), mention(110)], Right(2, [105, 110], 100)),
            Step([retract(110)], Right(1, [105], 100)),
            Step([ack(107)], Right(0, [], 107)),
        ]
    ),
    "1b the same, where the deletion overtakes the mention": Scenario(
        [
            Step([retract(110)], None),
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(110), mention(105)], Right(1, [105], 100)),
            Step([ack(107)], Right(0, [], 107)),
        ]
    ),
    "2 half of the mentions are read": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(n) for n in (101, 105, 109)], Right(3, [101, 105, 109], 100)),
            Step([ack(106)], Right(1, [109], 106)),
        ]
    ),
    "3 an automatic ack that was under way does not undo mark as unread": _unread_again(
        Step([ack(110)], Right(1, [105], 104), Known(2)),
    ),
    "3b an ack that knows of no version is taken": _unread_again(
        Step([ack(110)], Right(0, [], 110)),
    ),
    "3c so is one that knows the very version of the manual ack": _unread_again(
        Step([ack(110)], Right(0, [], 110), Known(3, "read_state")),
    ),
    "3d and one that knows a later one": _unread_again(
        Step([mention(111)], Right(2, [105, 111], 104)),
        Step([ack(110)], Right(1, [111], 110), Known(4)),
    ),
    "4 a mention is edited out and in again, and its first form arrives late": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(110)], Right(1, [110], 100)),
            Step([retract(110, edit=1)], Right(0, [], 100)),
            Step([mention(110, edit=2)], Right(1, [110], 100)),
            Step([mention(110)], Right(1, [110], 100)),
        ]
    ),
    "5 retractions of what is retracted, and of what never was": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(105), mention(110)], Right(2, [105, 110], 100)),
            Step([retract(110, edit=1)], Right(1, [105], 100)),
            Step([retract(110)], Right(1, [105], 100)),
            Step([retract(119)], Right(1, [105], 100)),
        ]
    ),
    "6 who left a channel hears of it only when a newer message comes": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(105)], Right(1, [105], 100)),
            Step([delete(110)], None),
            Step([mention(106)], None),
            Step([ack(106)], None),
            Step([mention(201)], Right(1, [201], 110)),
        ]
    ),
    "6b so does a newer message that was deleted meanwhile": Scenario(
        [
            Step([delete(110)], None),
            Step([mention(201)], Right(1, [201], 110)),
            Step([retract(201)], Right(0, [], 110)),
        ]
    ),
    "6c the same, where the deletion overtakes the mention": Scenario(
        [
            Step([delete(110)], None),
            Step([retract(201)], None),
            Step([mention(201)], Right(0, [], 110)),
            Step([mention(201), mention(205)], Right(1, [205], 110)),
        ]
    ),
    "7 a closed conversation comes back where it was closed": Scenario(
        [
            Step([ack(199)], Right(0, [], 199)),
            Step([delete(199)], None),
            Step([mention(200)], Right(1, [200], 199)),
        ]
    ),
    "8 a mention with a far too large ID can be taken back": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step([mention(BAD_ID)], Right(1, [BAD_ID], 100)),
            Step([ack(110)], Right(1, [BAD_ID], 110)),
            Step([retract(BAD_ID)], Right(0, [], 110)),
            Step([mention(115), mention(120)], Right(2, [115, 120], 110)),
            Step([ack(115)], Right(1, [120], 115)),
            Step([ack(120)], Right(0, [], 120)),
        ]
    ),
    "9 a thread is read half by a bulk ack": Scenario(
        [
            Step([mention(106), mention(108)], Right(2, [106, 108], 0)),
            Step(
                [
                    {
                        "type": "bulk_ack",
                        "acks": [{"channel_id": 12, "read_state_type": 9, "message_id": "107"}],
                    }
                ],
                Right(1, [108], 107),
            ),
        ],
        kind=9,
        channel=12,
    ),
    "10 mark as unread does not guess at mentions": _read(
        Step([unread(104)], Right(0, [], 104)),
    ),
    "10b it takes those that it is told": _read(
        Step([unread(104, mention_ids=["105", "106"])], Right(2, [105, 106], 104)),
        Step([ack(105)], Right(1, [106], 105)),
    ),
    "11 setting the flags does not take back what another device has read": Scenario(
        [
            Step([ack(100, flags=3)], Right(0, [], 100, flags=3)),
            Step([ack(106)], Right(0, [], 106, flags=3)),
            Step([{"type": "set", "flags": 0}], Right(0, [], 106)),
        ]
    ),
    "12 after a final deletion nothing comes back until the user is restored": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step(
                [mention(105), {"type": "pins_ack", "timestamp": 5000}],
                Right(1, [105], 100, pins=5000),
            ),
            Step([{"type": "delete_user", "final": True}], None),
            Step([mention(106), ack(107)], None),
            Step([{"type": "set", "flags": 1}], None),
            Step([{"type": "restore_user"}], None),
            Step([mention(108)], Right(1, [108], 0)),
        ]
    ),
    "13 an old snapshot takes nothing back": Scenario(
        [
            Step([ack(105)], Right(0, [], 105)),
            Step(
                [{"type": "merge", "last_message_id": "100", "mention_count": 2}],
                Right(0, [], 105),
            ),
        ]
    ),
    "17 of seventy mentions 64 are exact": Scenario(
        [
            Step([ack(100)], Right(0, [], 100)),
            Step(
                [mention(n) for n in range(101, 171)],
                Right(70, list(range(107, 171)), 100),
            ),
            Step([ack(161)], Right(9, list(range(162, 171)), 161)),
            Step([ack(170)], Right(0, [], 170)),
        ]
    ),
    "17b what was given up is only counted": Scenario(
        [
            Step(
                [mention(n) for n in range(170, 100, -1)],
                Right(70, list(range(107, 171)), 0),
            ),
            Step([ack(103)], Right(70, list(range(107, 171)), 103)),
            Step([retract(105)], Right(69, list(range(107, 171)), 103)),
            Step([mention(104)], Right(70, list(range(107, 171)), 103)),
            Step([mention(103)], Right(70, list(range(107, 171)), 103)),
            Step([retract(150)], Right(69, [*range(107, 150), *range(151, 171)], 103)),
            Step([ack(106)], Right(63, [*range(107, 150), *range(151, 171)], 106)),
        ]
    ),
}
