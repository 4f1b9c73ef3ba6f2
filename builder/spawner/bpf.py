# SPDX-License-Identifier: GPL-3.0-or-later
"""An assembler for the classic BPF programs that seccomp takes.

A program is a sequence of instructions and labels; jumps name labels, forward only, as
the kernel demands. Entry point: `assemble`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_LD_ABS, _ALU_AND, _RET = 0x20, 0x54, 0x06
_JEQ, _JGE, _JSET = 0x15, 0x35, 0x45

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MAX_JUMP = 255


@dataclass(frozen=True, slots=True)
class Label:
    """A place in the program."""

    name: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `yes` and `no` are labels, empty for the next instruction."""

    code: int
    value: int
    yes: str = ""
    no: str = ""


Item = Instruction | Label


def load(offset: int) -> Instruction:
    """Load 32 bits of the data into the accumulator."""
    return Instruction(_LD_ABS, offset)


def mask(value: int) -> Instruction:
    """Keep only these bits of the accumulator."""
    return Instruction(_ALU_AND, value)


def leave(value: int) -> Instruction:
    """End with a result."""
    return Instruction(_RET, value)


def if_equal(value: int, yes: str = "", no: str = "") -> Instruction:
    """Jump by whether the accumulator has this value."""
    return Instruction(_JEQ, value, yes, no)


def if_at_least(value: int, yes: str = "", no: str = "") -> Instruction:
    """Jump by whether the accumulator, unsigned, is no less than this."""
    return Instruction(_JGE, value, yes, no)


def if_any_bit(value: int, yes: str = "", no: str = "") -> Instruction:
    """Jump by whether the accumulator has any of these bits."""
    return Instruction(_JSET, value, yes, no)


def assemble(items: Sequence[Item]) -> bytes:
    """Give the program as an array of ``struct sock_filter``.

    Raises:
        ValueError: A label is missing, doubled, behind its jump or too far from it, or the
            program is too long.
    """
    instructions = [item for item in items if isinstance(item, Instruction)]
    if len(instructions) > MAX_INSTRUCTIONS:
        raise ValueError(f"a filter of {len(instructions)} instructions")
    places = _places(items)
    return b"".join(_encode(i, at, places) for at, i in enumerate(instructions))


def _places(items: Sequence[Item]) -> dict[str, int]:
    places: dict[str, int] = {}
    position = 0
    for item in items:
        if isinstance(item, Instruction):
            position += 1
        elif item.name in places:
            raise ValueError(f"two labels `{item.name}'")
        else:
            places[item.name] = position
    return places


def _encode(instruction: Instruction, at: int, places: dict[str, int]) -> bytes:
    yes, no = (_distance(label, at, places) for label in (instruction.yes, instruction.no))
    if max(yes, no) > MAX_JUMP:
        raise ValueError(f"a conditional jump of {max(yes, no)} instructions")
    return struct.pack("=HBBI", instruction.code, yes, no, instruction.value)


def _distance(label: str, at: int, places: dict[str, int]) -> int:
    if not label:
        return 0
    if label not in places:
        raise ValueError(f"no label `{label}'")
    distance = places[label] - at - 1
    if distance < 0:
        raise ValueError(f"a jump backwards to `{label}'")
    return distance
