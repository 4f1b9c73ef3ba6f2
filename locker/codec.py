# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages between the daemon and its helpers: frozen dataclasses to CBOR and back, without I/O.

A message is a CBOR array: the name of its type, then its fields in the order of their
declaration. A dataclass inside a field is an array of its fields; inside a union of
dataclasses it is preceded by the name of its type, as a message is. Decoding believes
nothing: each field must have exactly the declared type, and an error names the field.

Entry point: `Codec(Type, …)`, with `encode` and `decode`.
"""

import dataclasses
import enum
import os
import types
import typing
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import cbor2

from locker.errors import MessageError

MAX_DEPTH = 32
"""Nesting of arrays in a message; container descriptions need about six."""

# `cbor2.loads` ignores what follows the first value, and a decoder on a stream, which could
# tell, costs three times as much. So a datagram is parsed as the first element of a pair, whose
# second is a number that its sender cannot guess.
_END_VALUE = int.from_bytes(os.urandom(8)) | 1 << 63
_END = b"\x1b" + _END_VALUE.to_bytes(8)

MIN_INT, MAX_INT = -(2**63), 2**64 - 1
"""What CBOR carries without a tag for big numbers, and what the kernel's interfaces take."""


class _MismatchError(Exception):
    """A value that does not fit its field; `path` grows outwards as it passes the fields."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def inside(self, name: str) -> "_MismatchError":
        separator = "." if self.path and not self.path.startswith("[") else ""
        self.path = name + separator + self.path
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How the values of one declared type travel.

    Attributes:
        load: Checks a decoded value and gives the declared one; raises `_MismatchError`.
        dump: Gives what CBOR is to carry; None where that is the value itself.
    """

    load: Callable[[Any], Any]
    dump: Callable[[Any], Any] | None = None


def _unexpected(expected: str, value: object) -> _MismatchError:
    return _MismatchError(f"expected {expected}, got {type(value).__name__}")


def _scalar_form(expected: type) -> _Form:
    def load(value: Any) -> Any:
        if type(value) is not expected:
            raise _unexpected(expected.__name__, value)
        return value

    return _Form(load)


def _load_int(value: Any) -> int:
    if type(value) is not int:
        raise _unexpected("int", value)
    if not MIN_INT <= value <= MAX_INT:
        raise _MismatchError("an integer of more than 64 bits")
    return value


def _load_none(value: Any) -> None:
    if value is not None:
        raise _unexpected("None", value)


def _enum_form(enumeration: type[enum.Enum]) -> _Form:
    members = {member.value: member for member in enumeration}

    def load(value: Any) -> enum.Enum:
        if isinstance(value, str | int) and type(value) is not bool:
            member = members.get(value)
            if member is not None:
                return member
        raise _MismatchError(f"no {enumeration.__name__}")

    travels_as_is = issubclass(enumeration, str | int)
    return _Form(load, None if travels_as_is else attrgetter("value"))


def _sequence_form(item: _Form) -> _Form:
    load_item, dump_item = item.load, item.dump

    def load(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple:
            raise _unexpected("an array", value)
        loaded: list[Any] = []
        try:
            loaded.extend(map(load_item, value))
        except _MismatchError as error:
            raise error.inside(f"[{len(loaded)}]") from None
        return tuple(loaded)

    if dump_item is None:
        return _Form(load)
    return _Form(load, lambda values: [dump_item(value) for value in values])


def _record_form(forms: tuple[_Form, ...]) -> _Form:
    def load(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple or len(value) != len(forms):
            raise _MismatchError(f"expected an array of {len(forms)}")
        return tuple(_load_at(f"[{i}]", form, value[i]) for i, form in enumerate(forms))

    def dump(values: Any) -> list[Any]:
        return [form.dump(v) if form.dump else v for form, v in zip(forms, values, strict=True)]

    return _Form(load, dump if any(form.dump for form in forms) else None)


def _load_at(name: str, form: _Form, value: Any) -> Any:
    try:
        return form.load(value)
    except _MismatchError as error:
        raise error.inside(name) from None


def _optional_form(form: _Form) -> _Form:
    load_some, dump_some = form.load, form.dump

    def load(value: Any) -> Any:
        return None if value is None else load_some(value)

    if dump_some is None:
        return _Form(load)
    return _Form(load, lambda value: None if value is None else dump_some(value))


def _dataclass_form(datatype: type) -> _Form:
    hints = typing.get_type_hints(datatype)
    fields = tuple((f.name, form_of(hints[f.name])) for f in dataclasses.fields(datatype))
    load = _dataclass_load(datatype, fields)
    flat = _flat_load(datatype, [hints[name] for name, _ in fields], load)
    return _Form(flat or load, _dataclass_dump(fields))


def _dataclass_load(datatype: type, fields: tuple[tuple[str, _Form], ...]) -> Callable[[Any], Any]:
    loads = tuple((name, form.load) for name, form in fields)
    count = len(fields)

    def load(value: Any) -> Any:
        if type(value) is not tuple or len(value) != count:
            raise _MismatchError(f"expected the {count} fields of {datatype.__name__}")
        arguments: list[Any] = []
        try:
            for name, load_field in loads:  # noqa: B007 - the handler below needs the name
                arguments.append(load_field(value[len(arguments)]))
        except _MismatchError as error:
            raise error.inside(name) from None
        try:
            return datatype(*arguments)
        except ValueError as error:
            raise _MismatchError(str(error)) from error

    return load


def _flat_load(
    datatype: type, annotations: list[Any], load_each: Callable[[Any], Any]
) -> Callable[[Any], Any] | None:
    """Give a faster way to load a dataclass of scalars; it leaves what is wrong to the other.

    Hot messages are such: one comparison checks all their types at once.
    """
    if not set(annotations) <= {int, bool, str, bytes} or hasattr(datatype, "__post_init__"):
        return None
    expected = tuple(annotations)
    integers = tuple(i for i, annotation in enumerate(expected) if annotation is int)

    def load(value: Any) -> Any:
        if type(value) is not tuple or tuple(map(type, value)) != expected:
            return load_each(value)
        for i in integers:
            if not MIN_INT <= value[i] <= MAX_INT:
                return load_each(value)
        return datatype(*value)

    return load


def _dataclass_dump(fields: tuple[tuple[str, _Form], ...]) -> Callable[[Any], Any]:
    names = [name for name, _ in fields]
    if all(form.dump is None for _, form in fields):
        if len(names) > 1:
            return attrgetter(*names)
        return lambda value: [getattr(value, name) for name in names]
    steps = [(attrgetter(name), form.dump or (lambda value: value)) for name, form in fields]
    return lambda value: [dump(get(value)) for get, dump in steps]


def _union_form(datatypes: tuple[type, ...]) -> _Form:
    forms = {datatype.__name__: _dataclass_form(datatype) for datatype in datatypes}
    loads = {name: form.load for name, form in forms.items()}
    dumps = {datatype: forms[datatype.__name__].dump for datatype in datatypes}

    def load(value: Any) -> Any:
        if type(value) is not tuple or not value or type(value[0]) is not str:
            raise _MismatchError("expected a named type")
        load_fields = loads.get(value[0])
        if load_fields is None:
            raise _MismatchError(f"unexpected type `{value[0][:64]}'")
        try:
            return load_fields(value[1:])
        except _MismatchError as error:
            raise error.inside(value[0]) from None

    def dump(value: Any) -> list[Any]:
        dump_fields = dumps[type(value)]
        assert dump_fields is not None
        return [type(value).__name__, *dump_fields(value)]

    return _Form(load, dump)


def form_of(annotation: Any) -> _Form:
    """Give the form of a declared type.

    Args:
        annotation: int, bool, str, bytes, float, None, an enumeration of texts or numbers,
            a dataclass, a union of dataclasses, any of these `| None`, tuples of these of any
            length (`tuple[T, ...]`) or a fixed one, or a `NewType` of one of these.

    Raises:
        TypeError: A type that messages cannot carry; a fault of the program.
    """
    if isinstance(annotation, typing.NewType):
        return form_of(annotation.__supertype__)
    if annotation is None or annotation is types.NoneType:
        return _Form(_load_none)
    if annotation is int:
        return _Form(_load_int)
    if annotation in (bool, str, bytes, float):
        return _scalar_form(annotation)
    if isinstance(annotation, type):
        return _class_form(annotation)
    return _generic_form(annotation)


def _class_form(annotation: type) -> _Form:
    if issubclass(annotation, enum.Enum):
        return _enum_form(annotation)
    if dataclasses.is_dataclass(annotation):
        return _dataclass_form(annotation)
    raise TypeError(f"messages cannot carry {annotation.__name__}")


def _generic_form(annotation: Any) -> _Form:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return _sequence_form(form_of(arguments[0]))
        return _record_form(tuple(map(form_of, arguments)))
    if origin in (types.UnionType, typing.Union):
        others = tuple(a for a in arguments if a is not types.NoneType)
        form = form_of(others[0]) if len(others) == 1 else _checked_union_form(others)
        return form if len(others) == len(arguments) else _optional_form(form)
    raise TypeError(f"messages cannot carry {annotation!r}")


def _checked_union_form(members: tuple[Any, ...]) -> _Form:
    for member in members:
        if not (isinstance(member, type) and dataclasses.is_dataclass(member)):
            raise TypeError(f"a union may hold dataclasses only, not {member!r}")
    return _union_form(members)


class Codec:
    """The message types that travel on one channel.

    Args:
        message_types: Frozen dataclasses, for both directions; their names must differ.
        descriptors: How many file descriptors may go beside a message of a type, where
            that is more than none.
    """

    def __init__(self, *message_types: type, descriptors: Mapping[type, int] | None = None) -> None:
        if len({datatype.__name__ for datatype in message_types}) != len(message_types):
            raise TypeError("two message types have the same name")
        limits = descriptors or {}
        if unknown := set(limits) - set(message_types):
            raise TypeError(f"descriptors are allowed for types not listed: {unknown}")
        self._limits = {datatype: limits.get(datatype, 0) for datatype in message_types}
        form = _union_form(message_types)
        assert form.dump is not None
        self._load, self._dump = form.load, form.dump

    def descriptor_limit(self, message: object) -> int:
        """Give the number of descriptors that may go beside a message."""
        return self._limits[type(message)]

    def encode(self, message: object) -> bytes:
        """Encode a message.

        Raises:
            TypeError: The message has a type that the codec does not list.
        """
        if type(message) not in self._limits:
            raise TypeError(f"{type(message).__name__} is no message of this channel")
        return cbor2.dumps(self._dump(message))

    def decode(self, data: bytes) -> Any:
        """Decode one message, which must take up all of the data.

        Raises:
            MessageError: What is wrong, and where.
        """
        return self.from_value(parse(data))

    def from_value(self, value: Any) -> Any:
        """Give the message for a parsed CBOR value.

        Raises:
            MessageError: What is wrong, and where.
        """
        try:
            return self._load(value)
        except _MismatchError as error:
            where = f"{error.path}: " if error.path else ""
            raise MessageError(f"invalid message: {where}{error.problem}") from None


def parse(data: bytes) -> Any:
    """Parse one CBOR value, arrays as tuples; it must take up all of the data.

    Raises:
        MessageError: The data is no CBOR, or more than one value.
    """
    try:
        pair = cbor2.loads(
            b"\x82" + data + _END, max_depth=MAX_DEPTH, allow_indefinite=False, immutable=True
        )
    except cbor2.CBORError as error:
        raise MessageError(f"invalid message: {error}") from error
    if pair[1] != _END_VALUE:
        raise MessageError("invalid message: more than one value")
    return pair[0]
