"""Every message kind has one shape; anything else is refused with a short sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvclient.wire import messages
from kvclient.wire.frames import Decoder, encode
from kvclient.wire.messages import HELLO_FIELDS, SHAPES, MessageError, check, fields_check

LIMIT = 1 << 20
SAMPLES: dict[type, Any] = {int: 7, bytes: b"b", str: "s", dict: {"a": 1}, list: [1]}
WRONG: tuple[Any, ...] = (None, True, 1.5, b"b", "s", 7, [1], {"a": 1})


def sample(kind: int) -> list[Any]:
    return [kind, *(SAMPLES[field] for field in SHAPES[kind][1:])]


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_every_kind_crosses_the_wire_and_passes(kind: int) -> None:
    ((message,),) = Decoder(LIMIT).feed(encode([tuple(sample(kind))], LIMIT))
    check(message)
    assert message == sample(kind)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_every_kind_refuses_a_missing_field_an_extra_field_and_each_mistyped_field(kind: int) -> None:
    good = sample(kind)
    bad = [good[:-1], [*good, 1], [*good, None]]
    for at in range(1, len(good)):
        bad += [[*good[:at], wrong, *good[at + 1 :]] for wrong in WRONG if type(wrong) is not SHAPES[kind][at]]
    for message in bad:
        with pytest.raises(MessageError):
            check(message)


NOT_MESSAGES: tuple[Any, ...] = (
    None,
    7,
    "text",
    b"\x0f\x01",  # two integers to whoever only iterates: STATUS
    {15: 1, 1: 2},
    [],
    [None],
    [[15], 1],
    [True, {}],
    [1.0, {}],
    [-1],
    [9999, 1],
    ["15", 1],
)


@pytest.mark.parametrize("message", NOT_MESSAGES, ids=repr)
def test_what_is_not_a_message_is_refused(message: Any) -> None:
    with pytest.raises(MessageError, match="not a message"):
        check(message)


def test_a_refusal_stays_short_however_large_the_message() -> None:
    for huge in (
        [b"x" * 1_000_000],
        [15, *[1] * 100_000],
        ["x" * 1_000_000, 1],
        [[[1]] * 100_000],
        [24, 1, "x" * 99_999],
    ):
        with pytest.raises(MessageError) as caught:
            check(huge)
        assert len(str(caught.value)) < 600


@given(st.lists(st.integers() | st.binary() | st.text() | st.none() | st.lists(st.integers()), max_size=12))
@settings(deadline=None)
def test_check_raises_message_error_or_nothing(message: list[Any]) -> None:
    try:
        check(message)
    except MessageError:
        return
    assert tuple(map(type, message)) == SHAPES[message[0]]


def test_kinds_of_clients_and_answers_do_not_overlap() -> None:
    assert not messages.CLIENT_REQUESTS & messages.CLIENT_ANSWERS
    assert messages.FORWARDABLE < messages.CLIENT_REQUESTS


HELLO: dict[str, Any] = {"protocol": 1, "cluster": "c", "role": "client"}


def test_a_greeting_may_have_more_fields_than_this_version_knows() -> None:
    fields_check("HELLO", {**HELLO, "colour": "blue"}, HELLO_FIELDS)


@pytest.mark.parametrize("name", sorted(HELLO))
def test_a_greeting_without_a_field_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(MessageError, match=f"HELLO lacks the field '{name}'"):
        fields_check("HELLO", {key: value for key, value in HELLO.items() if key != name}, HELLO_FIELDS)


@pytest.mark.parametrize(("name", "value"), [("protocol", "1"), ("protocol", True), ("cluster", b"c"), ("role", None)])
def test_a_mistyped_field_of_a_greeting_is_refused_with_name_value_and_type(name: str, value: Any) -> None:
    with pytest.raises(MessageError, match=f"HELLO has {name} = .*, expected (int|str)"):
        fields_check("HELLO", {**HELLO, name: value}, HELLO_FIELDS)
