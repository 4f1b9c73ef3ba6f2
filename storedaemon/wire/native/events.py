# SPDX-License-Identifier: GPL-3.0-or-later
"""Build events as the fields of event messages, and back.

An event's fields are those of its class in `builder.events`, by the same names
with hyphens, so that a field added there travels without a change here; the names of events
are fixed below.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from builder import events
from builder.scheduling.waiting import Holder

NAMES: Mapping[type, str] = {
    events.Message: "message",
    events.GoalPlanned: "planned",
    events.GoalWaiting: "waiting",
    events.GoalShared: "shared",
    events.BuildStarted: "started",
    events.BuildLog: "log",
    events.OutputConfirmed: "confirmed",
    events.ContentFound: "content-found",
    events.BuildSucceeded: "succeeded",
    events.BuildFailed: "failed",
    events.BuildRetried: "retried",
    events.HashMismatch: "hash-mismatch",
    events.UnsupportedPlatform: "unsupported-platform",
    events.ItemDamaged: "damage",
    events.SubstitutePlanned: "substitute-planned",
    events.SubstituteStarted: "substitute-started",
    events.SubstituteProgress: "substitute-progress",
    events.SubstituterOutput: "substituter-output",
    events.SubstituteSucceeded: "substitute-succeeded",
    events.SubstituteFailed: "substitute-failed",
}

_LEVELS: Mapping[str, events.Level] = {level.value: level for level in events.Level}
_KINDS: Mapping[str, events.FailureKind] = {kind.value: kind for kind in events.FailureKind}
_DAMAGES: Mapping[str, events.Damage] = {damage.value: damage for damage in events.Damage}
_CLASSES: Mapping[str, type] = {name: cls for cls, name in NAMES.items()}

MAX_TEXT = 4096
"""Characters of one text in an event; longer text is cut, so that the frame stays short."""

MAX_LIST = 32_768
"""Characters of all texts of one list in an event; the list is cut before they are more."""

MAX_HOLDERS = 32
"""Holders that are named in an event."""

MAX_DATA = 49_152
"""Bytes of log output in one event; more comes in several."""


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a daemon newer than this code, as it came."""

    event: str
    fields: Mapping[str, Any]


def event_fields(event: events.BuildEvent) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the name and the fields of each message that an event needs: one, but for long logs."""
    if isinstance(event, events.BuildLog) and len(event.data) > MAX_DATA:
        for start in range(0, len(event.data), MAX_DATA):
            yield from event_fields(replace(event, data=event.data[start : start + MAX_DATA]))
        return
    cls = type(event)
    yield NAMES[cls], {_key(name): _plain(getattr(event, name)) for name in cls.__slots__}


def _key(field: str) -> str:
    return field.replace("_", "-")


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        # A lone surrogate stands for a byte that is not UTF-8, which CBOR text has to be.
        text = str(value[:MAX_TEXT]).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return text if len(value) <= MAX_TEXT else f"{text}…"
    if isinstance(value, Holder):
        return holder_map(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Holder):
        return [holder_map(holder) for holder in value[:MAX_HOLDERS]]
    if isinstance(value, tuple):
        lengths = itertools.accumulate(map(len, value))
        return [item for item, length in zip(value, lengths, strict=True) if length <= MAX_LIST]
    return value


def holder_map(holder: Holder) -> dict[str, Any]:
    """Describe who has what others wait for; what is not known is left out."""
    values = {name: getattr(holder, name) for name in holder.__slots__}
    return {name: _plain(value) for name, value in values.items() if value}


def parse_holder(values: Any) -> Holder:
    """Read what `holder_map` writes; what is no such thing is unknown."""
    given = values if isinstance(values, dict) else {}
    found = {
        name: given[name]
        for name, kind in _HOLDER_TYPES.items()
        if isinstance(given.get(name), kind)
    }
    return Holder(**found)


_HOLDER_TYPES: Mapping[str, Any] = {
    "goal": str,
    "user": str,
    "pid": int,
    "command": str,
    "since": int | float,
}


def parse_event(name: str, values: Mapping[str, Any]) -> events.BuildEvent | UnknownEvent:
    """Read an event; one that this code does not know, or cannot read, stays as it came."""
    cls = _CLASSES.get(name)
    if cls is None:
        return UnknownEvent(name, values)
    arguments = {}
    for field in fields(cls):
        key = _key(field.name)
        if key in values:
            arguments[field.name] = _typed(cls, field.name, values[key])
        elif field.default is MISSING:
            return UnknownEvent(name, values)
    event: events.BuildEvent = cls(**arguments)
    return event


def _typed(cls: type, field: str, value: Any) -> Any:
    """Give lists and enumerations back their types."""
    if isinstance(value, list):
        return tuple(map(parse_holder, value)) if field == "holders" else tuple(value)
    if (cls, field) == (events.GoalShared, "by"):
        return parse_holder(value)
    if (cls, field) == (events.Message, "level"):
        return _LEVELS.get(value, events.Level.INFO)
    if (cls, field) == (events.BuildFailed, "kind"):
        return _KINDS.get(value, events.FailureKind.MISC)
    if (cls, field) == (events.ItemDamaged, "damage"):
        return _DAMAGES.get(value, events.Damage.UNREADABLE)
    return value
