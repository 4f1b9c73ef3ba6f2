# SPDX-License-Identifier: GPL-3.0-or-later
import dataclasses
import enum
from typing import Any, NewType

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locker.codec import MAX_INT, MIN_INT, Codec
from locker.errors import MessageError

Name = NewType("Name", str)


class Shade(enum.StrEnum):
    """An enumeration that travels as it is."""

    DARK = "dark"
    LIGHT = "light"


class Weight(enum.Enum):
    """An enumeration whose values travel."""

    HEAVY = 1
    SLIGHT = "s"


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A nested record."""

    x: int
    y: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """Another, for unions."""

    text: Name


@dataclasses.dataclass(frozen=True, slots=True)
class Everything:
    """A field of each kind."""

    number: int
    flag: bool
    text: str
    data: bytes
    ratio: float
    maybe: str | None
    nothing: None
    shade: Shade
    weight: Weight
    pairs: tuple[tuple[str, int], ...]
    point: Point
    either: Point | Label
    some: tuple[Point | Label, ...]
    perhaps: Point | Label | None


@dataclasses.dataclass(frozen=True, slots=True)
class Flat:
    """Scalars only."""

    number: int
    flag: bool
    text: str
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Positive:
    """A message with a rule of its own."""

    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError("the number is not positive")


@dataclasses.dataclass(frozen=True, slots=True)
class Empty:
    """A message without fields."""


CODEC = Codec(Everything, Flat, Positive, Empty)

INTS = st.integers(MIN_INT, MAX_INT)
POINTS = st.builds(Point, INTS, st.none() | INTS)
LABELS = st.builds(Label, st.text().map(Name))
MESSAGES = st.one_of(
    st.builds(Flat, INTS, st.booleans(), st.text(), st.binary()),
    st.builds(Empty),
    st.builds(
        Everything,
        number=INTS,
        flag=st.booleans(),
        text=st.text(),
        data=st.binary(),
        ratio=st.floats(allow_nan=False),
        maybe=st.none() | st.text(),
        nothing=st.none(),
        shade=st.sampled_from(Shade),
        weight=st.sampled_from(Weight),
        pairs=st.lists(st.tuples(st.text(), INTS)).map(tuple),
        point=POINTS,
        either=POINTS | LABELS,
        some=st.lists(POINTS | LABELS).map(tuple),
        perhaps=st.none() | POINTS | LABELS,
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(MESSAGES)
def test_a_decoded_message_equals_the_one_encoded(message: object) -> None:
    """Every field type survives the round trip, and keeps its type."""
    decoded = CODEC.decode(CODEC.encode(message))
    assert decoded == message
    assert type(decoded) is type(message)


@given(st.binary())
def test_random_bytes_are_a_message_error_at_worst(data: bytes) -> None:
    """Decoding has no other failure than its own."""
    try:
        CODEC.decode(data)
    except MessageError:
        return


@given(st.sampled_from(["Everything", "Flat", "Positive", "Empty"]), st.lists(VALUES, max_size=15))
def test_random_fields_are_a_message_error_at_worst(name: str, fields: list[Any]) -> None:
    """Any CBOR value in any field either fits or is refused."""
    try:
        CODEC.decode(cbor2.dumps([name, *fields]))
    except MessageError:
        return


@given(MESSAGES, st.binary(min_size=1))
def test_bytes_after_a_message_are_refused(message: object, tail: bytes) -> None:
    """A datagram is one message and nothing else."""
    with pytest.raises(MessageError):
        CODEC.decode(CODEC.encode(message) + tail)


@given(MESSAGES, st.data())
def test_a_message_cut_short_is_refused(message: object, data: st.DataObject) -> None:
    """No prefix of a message is a message."""
    encoded = CODEC.encode(message)
    with pytest.raises(MessageError):
        CODEC.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


GOOD: dict[str, Any] = {
    "number": 1, "flag": True, "text": "t", "data": b"d", "ratio": 0.5, "maybe": None,
    "nothing": None, "shade": "dark", "weight": "s", "pairs": [["a", 1]], "point": [1, None],
    "either": ["Label", "l"], "some": [["Point", 1, 2]], "perhaps": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("number", True, "number: expected int, got bool"),
        ("number", "1", "number: expected int, got str"),
        ("number", 2**64, "number: an integer of more than 64 bits"),
        ("flag", 1, "flag: expected bool, got int"),
        ("text", b"t", "text: expected str, got bytes"),
        ("data", "d", "data: expected bytes, got str"),
        ("ratio", 1, "ratio: expected float, got int"),
        ("maybe", 1, "maybe: expected str, got int"),
        ("nothing", 0, "nothing: expected None, got int"),
        ("shade", "grey", "shade: no Shade"),
        ("shade", [], "shade: no Shade"),
        ("weight", True, "weight: no Weight"),
        ("pairs", [["a", 1], ["b", "2"]], "pairs[1][1]: expected int, got str"),
        ("pairs", [["a", 1, 2]], "pairs[0]: expected an array of 2"),
        ("pairs", {}, "pairs: expected an array, got "),
        ("point", [1], "point: expected the 2 fields of Point"),
        ("point", [None, 1], "point.x: expected int, got NoneType"),
        ("either", ["Flat", 1], "either: unexpected type `Flat'"),
        ("either", [1, 2], "either: expected a named type"),
        ("some", [["Point", 1, 2], ["Point", 1, "2"]], "some[1].Point.y: expected int, got str"),
        ("perhaps", [], "perhaps: expected a named type"),
    ],
)
def test_the_error_names_the_field(field: str, value: object, place: str) -> None:
    """Whoever reads the error knows which field of which message was wrong, and how."""
    fields = GOOD | {field: value}
    with pytest.raises(MessageError) as caught:
        CODEC.decode(cbor2.dumps(["Everything", *fields.values()]))
    assert f"Everything.{place}" in caught.value.message
    assert caught.value.reason == "invalid-message"


def test_flat_messages_are_checked_as_strictly() -> None:
    """The faster way to load a message of scalars refuses the same."""
    wrong: list[list[Any]] = [
        [1, True, "t"],
        [1, 1, "t", b"d"],
        [2**64, True, "t", b"d"],
        [[], True, "", b""],
    ]
    for fields in wrong:
        with pytest.raises(MessageError, match="Flat"):
            CODEC.decode(cbor2.dumps(["Flat", *fields]))


def test_the_types_own_checks_are_message_errors() -> None:
    """A dataclass may refuse values in its own words."""
    with pytest.raises(MessageError, match="Positive: the number is not positive"):
        CODEC.decode(cbor2.dumps(["Positive", 0]))


@pytest.mark.parametrize(
    "value", [["Unknown"], [], 7, None, "Empty", {"Empty": []}, [["Empty"]], ["Empty", 1]]
)
def test_what_is_no_listed_message_is_refused(value: object) -> None:
    """Only the types that the codec lists are messages."""
    with pytest.raises(MessageError):
        CODEC.decode(cbor2.dumps(value))


def test_nesting_is_bounded() -> None:
    """A small datagram cannot make the decoder recurse without end."""
    with pytest.raises(MessageError, match="depth"):
        CODEC.decode(b"\x81" * 10_000 + b"\x01")


def test_announced_lengths_are_not_believed() -> None:
    """An array said to have 2^62 elements costs no memory."""
    with pytest.raises(MessageError):
        CODEC.decode(b"\x9b" + (2**62).to_bytes(8))


def test_encoding_another_type_is_a_fault_of_the_program() -> None:
    """A type that the codec does not list cannot be sent by mistake."""
    with pytest.raises(TypeError, match="Point is no message"):
        CODEC.encode(Point(1, 2))


def test_unsupported_field_types_are_found_when_the_codec_is_made() -> None:
    """Not when the first such message is sent."""

    @dataclasses.dataclass(frozen=True)
    class Mapping:
        field: dict[str, str]

    @dataclasses.dataclass(frozen=True)
    class Mixed:
        field: int | str

    for datatype in (Mapping, Mixed):
        with pytest.raises(TypeError):
            Codec(datatype)


def test_descriptors_are_declared_for_listed_types_only() -> None:
    """A limit for a type that the codec does not have is a mistake."""
    with pytest.raises(TypeError):
        Codec(Flat, descriptors={Empty: 1})
    assert Codec(Flat, descriptors={Flat: 2}).descriptor_limit(Flat(1, True, "", b"")) == 2
