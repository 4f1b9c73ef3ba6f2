# SPDX-License-Identifier: GPL-3.0-or-later
"""Text with ``${name}`` in it, as recipes use it for paths that are not known yet.

``${name}`` stands for a source or for the output ``out`` of a derivation,
``${name.output}`` for another output; ``$${`` stands for ``${`` itself.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

_PIECE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What ``${name}`` or ``${name.output}`` stands for; `output` is None where none is named."""

    name: str
    output: str | None = None

    def __str__(self) -> str:
        return self.name if self.output is None else f"{self.name}.{self.output}"


@dataclass(frozen=True, slots=True)
class Template:
    """Text in pieces: literal ones and placeholders, in order."""

    pieces: tuple[str | Placeholder, ...]

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """What the text refers to, in the order of its appearance."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Placeholder))

    def fill(self, path_of: Callable[[Placeholder], str]) -> str:
        """Put paths in the place of the placeholders."""
        return "".join(p if isinstance(p, str) else path_of(p) for p in self.pieces)


def parse_placeholder(text: str) -> Placeholder:
    """Read ``name`` or ``name.output``.

    Raises:
        ValueError: It is neither.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is neither NAME nor NAME.OUTPUT")
    return Placeholder(match[1], match[2])


def parse_template(text: str) -> Template:
    """Cut text at its placeholders.

    Raises:
        ValueError: A ``${`` is not followed by ``name}`` or ``name.output}``.
    """
    pieces: list[str | Placeholder] = []
    position = 0
    for match in _PIECE.finditer(text):
        pieces.append(text[position : match.start()])
        pieces.append("${" if match[1] is None else _placeholder(match))
        position = match.end()
    pieces.append(text[position:])
    return Template(tuple(piece for piece in pieces if piece))


def _placeholder(match: re.Match[str]) -> Placeholder:
    if not match[0].endswith("}"):
        raise ValueError(f"'{match[0][:40]}' has no closing brace")
    return parse_placeholder(match[1])
