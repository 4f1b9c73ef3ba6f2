# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed access to the parameters of a request.

Each getter names the method and the parameter in its error, so that whoever
writes a client sees what to mend.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.messages import MAX_ID

E = TypeVar("E", bound=Enum)

MAX_PATH = 4096
"""Characters of a path in a parameter, the kernel's own bound."""

_REQUIRED: Any = object()


class Params:
    """The parameters of one request.

    Args:
        method: The request's method, for errors.
        values: The parameters as they came.
    """

    __slots__ = ("_method", "_values")

    def __init__(self, method: str, values: Mapping[str, Any]) -> None:
        self._method = method
        self._values = values

    def has(self, key: str) -> bool:
        """Say whether a parameter was given; null counts as not given."""
        return self._values.get(key) is not None

    def text(self, key: str, default: str = _REQUIRED, *, limit: int = MAX_PATH) -> str:
        """Give text of at most `limit` characters, without null characters."""
        value = self._get(key, default)
        if isinstance(value, str) and len(value) <= limit and "\0" not in value:
            return value
        raise self.wrong(key, f"text of at most {limit} characters")

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Give a boolean."""
        value = self._get(key, default)
        if isinstance(value, bool):
            return value
        raise self.wrong(key, "true or false")

    def number(self, key: str, default: int = _REQUIRED, *, limit: int = MAX_ID) -> int:
        """Give a whole number from 0 to `limit`."""
        value = self._get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit:
            return value
        raise self.wrong(key, f"a whole number from 0 to {limit}")

    def signed(self, key: str, limit: int) -> int:
        """Give a whole number from minus `limit` to `limit`."""
        value = self._get(key, _REQUIRED)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= limit:
            return value
        raise self.wrong(key, f"a whole number from -{limit} to {limit}")

    def optional_number(self, key: str, *, limit: int = MAX_ID) -> int | None:
        """Give a whole number, or None where there is none."""
        return self.number(key, limit=limit) if self.has(key) else None

    def content(self, key: str) -> bytes:
        """Give a byte string, or text as its UTF-8."""
        value = self._get(key, _REQUIRED)
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        raise self.wrong(key, "a byte string or text")

    def texts(self, key: str, default: list[str] = _REQUIRED) -> list[str]:
        """Give a list of text."""
        value = self._get(key, default)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.wrong(key, "a list of text")

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Give a map; an absent one is empty."""
        value = self._get(key, {})
        if isinstance(value, dict):
            return value
        raise self.wrong(key, "a map")

    def nested(self, key: str) -> "Params":
        """Give a map as parameters of its own."""
        return Params(f"{self._method}: {key}", self.mapping(key))

    def choice(self, key: str, choices: Mapping[str, E], default: str = _REQUIRED) -> E:
        """Give one of the values that are allowed, by its word."""
        value = self._get(key, default)
        if isinstance(value, str) and value in choices:
            return choices[value]
        raise self.wrong(key, "one of " + ", ".join(choices))

    def wrong(self, key: str, expected: str) -> RequestError:
        """Make the error that names a parameter and what it has to be."""
        return RequestError(
            "invalid-params", f"{self._method}: '{key}' must be {expected}", {"parameter": key}
        )

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise RequestError(
                "invalid-params", f"{self._method}: '{key}' is missing", {"parameter": key}
            )
        return default
