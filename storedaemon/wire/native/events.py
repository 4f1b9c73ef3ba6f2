# SPDX-License-Identifier: GPL-3.0-or-later
"""Build events as the fields of event messages, and back.

An event's fields are those of its class in `builder.events`, by the same names,
so that a field added there travels without a change here; the names of events
are fixed below.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from builder import events

NAMES: Mapping[type, str] = {
    events.Message: "message",
    events.GoalPlanned: "planned",
    events.GoalWaiting: "waiting",
    events.BuildStarted: "started",
    events.BuildLog: "log",
    events.BuildSucceeded: "succeeded",
    events.BuildFailed: "failed",
    events.HashMismatch: "hash-mismatch",
    events.UnsupportedPlatform: "unsupported-platform",
}

_CLASSES: Mapping[str, type] = {name: cls for cls, name in NAMES.items()}

MAX_TEXT = 16_384
"""Characters of text in one event; longer text is cut, so that the frame stays short."""


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a daemon newer than this code, as it came."""

    event: str
    fields: Mapping[str, Any]


def event_fields(event: events.BuildEvent) -> tuple[str, dict[str, Any]]:
    """Give an event's name and its fields as CBOR values."""
    cls = type(event)
    return NAMES[cls], {name: _plain(getattr(event, name)) for name in cls.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        text = str(value)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def parse_event(name: str, values: Mapping[str, Any]) -> events.BuildEvent | UnknownEvent:
    """Read an event; one that this code does not know, or cannot read, stays as it came."""
    cls = _CLASSES.get(name)
    if cls is None:
        return UnknownEvent(name, values)
    arguments = {}
    for field in fields(cls):
        if field.name in values:
            arguments[field.name] = _typed(cls, field.name, values[field.name])
        elif field.default is MISSING:
            return UnknownEvent(name, values)
    event: events.BuildEvent = cls(**arguments)
    return event


def _typed(cls: type, field: str, value: Any) -> Any:
    """Give lists and enumerations back their types."""
    if isinstance(value, list):
        return tuple(value)
    kind = {
        (events.Message, "level"): events.Level,
        (events.BuildFailed, "kind"): events.FailureKind,
    }.get((cls, field))
    if kind is None:
        return value
    return kind(value) if value in kind else next(reversed(kind))
