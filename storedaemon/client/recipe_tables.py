# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed access to the tables of a recipe file, with errors that say where.

A `Table` remembers which keys were asked for; `done` refuses the others, so that
a misspelt key is an error and not a silent default.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from storedaemon.client.errors import RecipeError
from storedaemon.client.templates import (
    Placeholder,
    Template,
    parse_placeholder,
    parse_template,
)

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def load_toml(data: bytes, file: str) -> "Table":
    """Parse a file's content into its top table.

    Raises:
        RecipeError: It is not UTF-8, or not TOML.
    """
    try:
        return Table(file, "", tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{file}: not TOML: {error}") from error


class Table:
    """One table.

    Args:
        file: The recipe file's name.
        name: The table's name; empty for the top.
        values: Its content.
    """

    __slots__ = ("_asked", "_file", "_name", "_values")

    def __init__(self, file: str, name: str, values: Mapping[str, Any]) -> None:
        self._file = file
        self._name = name
        self._values = values
        self._asked: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def error(self, what: str) -> RecipeError:
        """Make an error that names the file and the table."""
        where = f"[{self._name}]: " if self._name else ""
        return RecipeError(f"{self._file}: {where}{what}")

    def wrong(self, key: str, expected: str) -> RecipeError:
        """Make the error for a key with an unsuitable value."""
        return self.error(f"'{key}' must be {expected}")

    def check_name(self, name: str) -> None:
        """Refuse a name that no placeholder could spell."""
        if not _NAME.fullmatch(name):
            raise self.error(f"'{name}' is no name: use letters, digits, '-' and '_'")

    def done(self) -> None:
        """Refuse the keys that nobody asked for."""
        unknown = sorted(self._values.keys() - self._asked)
        if unknown:
            known = ", ".join(sorted(self._asked))
            raise self.error(f"unknown key '{unknown[0]}'; the keys are {known}")

    def is_text(self, key: str) -> bool:
        """Say whether a key's value is text."""
        return isinstance(self._values.get(key), str)

    def text(self, key: str, default: str | None = None) -> str:
        """Give text."""
        value = self._get(key, default)
        if value is None:
            raise self.error(f"'{key}' is missing")
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(key, "text")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """Give a list of names; a single one may stand alone."""
        value = self._get(key, [])
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(_is_name(item) for item in items):
            raise self.wrong(key, "a name or a list of names")
        return tuple(items)

    def table(self, key: str) -> "Table":
        """Give the table under a key; an absent one is empty."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "a table")
        return Table(self._file, f"{self._name}.{key}".lstrip("."), value)

    def tables(self, key: str) -> Iterator[tuple[str, "Table"]]:
        """Give the tables in the table under a key, with their names."""
        outer = self.table(key)
        for name in outer:
            yield name, outer.table(name)

    def optional_template(self, key: str) -> Template | None:
        """Give text with placeholders, or None where there is none."""
        return None if self._get(key, None) is None else self.template(key)

    def template(self, key: str) -> Template:
        """Give text with placeholders; a number counts as its digits."""
        return self._template(key, _as_text(self._get(key, None)))

    def templates(self, key: str) -> tuple[Template, ...]:
        """Give a list of text with placeholders."""
        value = self._get(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, "a list of text")
        return tuple(self._template(key, item) for item in value)

    def template_map(self, key: str) -> Mapping[str, Template]:
        """Give a table of text with placeholders; numbers count as their digits."""
        inner = self.table(key)
        return {name: inner.template(name) for name in inner}

    def placeholders(self, key: str) -> tuple[Placeholder, ...]:
        """Give a list of ``name`` and ``name.output``."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of names")
        try:
            return tuple(parse_placeholder(item) for item in value)
        except ValueError as error:
            raise self.error(f"'{key}': {error}") from error

    def _get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        return self._values.get(key, default)

    def _template(self, key: str, value: Any) -> Template:
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(key, "text")
        try:
            return parse_template(value)
        except ValueError as error:
            raise self.error(f"'{key}': {error}") from error


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _as_text(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else value
