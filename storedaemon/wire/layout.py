# SPDX-License-Identifier: GPL-3.0-or-later
"""A message as fields in a row: one description that both reads and writes it.

A dialect states its messages as `Field` lists in which each field says which
minor versions have it; `layout_for` gives the `Layout` for one minor. Nothing
else looks at the peer's version.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from storedaemon.wire.primitives import Buffer, Kind, Many

Read = Callable[[Buffer, int, int], tuple[Any, int]]
Write = Callable[[Any, list[bytes]], None]

LATEST = 256
"""No minor is as large: it is the low byte of a version."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a message.

    Attributes:
        name: The attribute of the message that holds it.
        kind: How it looks on the wire.
        since: The first minor that has it.
        before: The first minor that no longer has it.
    """

    name: str
    kind: Kind[Any]
    since: int = 0
    before: int = LATEST

    @property
    def getter(self) -> Callable[[Any], Any]:
        """What gives the value that a message has."""
        return attrgetter(self.name)


@dataclass(frozen=True, slots=True)
class Obsolete(Field):
    """A value that is still sent but means nothing: `value` is written, anything is read."""

    value: Any = 0

    @property
    def getter(self) -> Callable[[Any], Any]:
        """What gives the value that all messages have."""
        return lambda _message: self.value


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of one message for one minor version; make one with `layout_for`.

    Attributes:
        type: The message.
        fields: What is on the wire, in order.
        reads: How each field is read; beside the fields for speed, like the next.
        writes: What gives each field of a message, and how that is written.
        lists: The kind of each field that is a list, None for the others.
        positional: Whether the values in order are the message's arguments.
    """

    type: type[Any]
    fields: tuple[Field, ...]
    reads: tuple[Read, ...]
    writes: tuple[tuple[Callable[[Any], Any], Write], ...]
    lists: tuple[Many[Any] | None, ...]
    positional: bool

    def build(self, values: list[Any]) -> Any:
        """Make the message from the values of all fields."""
        if self.positional:
            return self.type(*values)
        named = zip(self.fields, values, strict=True)
        return self.type(**{f.name: v for f, v in named if not isinstance(f, Obsolete)})

    def write(self, message: Any, parts: list[bytes]) -> None:
        """Append the bytes of all fields."""
        for get, write in self.writes:
            write(get(message), parts)


def layout_for(minor: int, message: type[Any], fields: Iterable[Field]) -> Layout:
    """Make the layout that peers of one minor version use."""
    present = tuple(field for field in fields if field.since <= minor < field.before)
    names = tuple(field.name for field in present)
    return Layout(
        message,
        present,
        reads=tuple(field.kind.read for field in present),
        writes=tuple((field.getter, field.kind.write) for field in present),
        lists=tuple(field.kind if isinstance(field.kind, Many) else None for field in present),
        positional=names == tuple(message.__dataclass_fields__)[: len(names)],
    )
