# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of system calls, run by an interpreter of its instructions."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.spawner.seccomp import filter_for

ALLOW = 0x7FFF0000
X86_64, I386, AARCH64, ARM, RISCV64 = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0xC00000F3
PROGRAMS = {machine: filter_for(machine) for machine in ("x86_64", "aarch64", "riscv64", "i686")}


def judge(machine: str, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter; give 0 if the call is allowed, else the error number it ends with."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", PROGRAMS[machine]))
    accumulator, position = 0, 0
    while True:
        code, yes, no, value = instructions[position]
        position += 1
        if code == 0x06:
            return 0 if value == ALLOW else value & 0xFFFF
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            accumulator &= value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            position += yes if holds else no


@pytest.mark.parametrize(
    ("machine", "architecture", "numbers"),
    [
        ("x86_64", X86_64, {"chmod": 90, "fchmod": 91, "creat": 85, "mknod": 133}),
        ("x86_64", X86_64 | 0, {"chmod": 90 | 1 << 30, "fchmod": 91 | 1 << 30}),
        ("x86_64", I386, {"chmod": 15, "fchmod": 94, "creat": 8, "mknod": 14}),
        ("i686", I386, {"chmod": 15, "fchmod": 94, "creat": 8, "mknod": 14}),
        ("aarch64", ARM, {"chmod": 15, "fchmod": 94, "creat": 8, "mknod": 14}),
        ("aarch64", AARCH64, {"fchmod": 52}),
        ("riscv64", RISCV64, {"fchmod": 52}),
    ],
)
def test_modes_in_the_second_argument(
    machine: str, architecture: int, numbers: dict[str, int]
) -> None:
    """Only set-id bits are refused."""
    for number in numbers.values():
        for mode in (0o4755, 0o2755, 0o6000, 0o102755):
            assert judge(machine, architecture, number, 0, mode) == errno.EPERM
        for mode in (0, 0o755, 0o1777):
            assert judge(machine, architecture, number, 0o6000, mode, 0o6000) == 0


@pytest.mark.parametrize(
    ("machine", "architecture", "openat", "fchmodat", "mknodat"),
    [
        ("x86_64", X86_64, 257, 268, 259),
        ("x86_64", I386, 295, 306, 297),
        ("aarch64", AARCH64, 56, 53, 33),
        ("aarch64", ARM, 322, 333, 324),
        ("riscv64", RISCV64, 56, 53, 33),
    ],
)
def test_modes_of_calls_on_directories(
    machine: str, architecture: int, openat: int, fchmodat: int, mknodat: int
) -> None:
    """An open that creates nothing may have anything in the place of its mode."""
    for number in (fchmodat, mknodat, 452):
        assert judge(machine, architecture, number, 0, 0, 0o4755) == errno.EPERM
        assert judge(machine, architecture, number, 0, 0, 0o1755) == 0
    for flags in (0o100, 0o102, 0o20200000, 0o20200002):
        assert judge(machine, architecture, openat, 0, 0, flags, 0o4644) == errno.EPERM
        assert judge(machine, architecture, openat, 0, 0, flags, 0o644) == 0
    assert judge(machine, architecture, openat, 0, 0, 0o200000, 0o6777) == 0


@pytest.mark.parametrize(
    ("machine", "architecture", "numbers"),
    [
        ("x86_64", X86_64, range(188, 200)),
        ("x86_64", I386, range(226, 238)),
        ("aarch64", AARCH64, range(5, 17)),
        ("aarch64", ARM, range(226, 238)),
    ],
)
def test_attributes_and_rings_on_each_abi(machine: str, architecture: int, numbers: range) -> None:
    """Twelve old calls and four new ones for attributes, three for rings, and openat2."""
    for number in (*numbers, *range(463, 467)):
        assert judge(machine, architecture, number) == errno.EOPNOTSUPP
    for number in (425, 426, 427, 437):
        assert judge(machine, architecture, number) == errno.ENOSYS
    for number in (numbers.start - 1, numbers.stop, 424, 428, 462, 467):
        assert judge(machine, architecture, number) == 0


@given(st.sampled_from(sorted(PROGRAMS)), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_foreign_abis_get_nothing(machine: str, architecture: int, number: int) -> None:
    """An architecture without a table has no system calls."""
    known = {
        "x86_64": (X86_64, I386),
        "i686": (I386,),
        "aarch64": (AARCH64, ARM),
        "riscv64": (RISCV64,),
    }
    if architecture not in known[machine]:
        assert judge(machine, architecture, number) == errno.ENOSYS


@given(st.integers(0, 600), st.lists(st.integers(0, 0o1777), min_size=6, max_size=6))
def test_everything_else_is_allowed(number: int, arguments: list[int]) -> None:
    """Without set-id bits in any argument, only attributes, rings and openat2 are refused."""
    refused = {*range(188, 200), *range(463, 467), 425, 426, 427, 437}
    assert (judge("x86_64", X86_64, number, *arguments) == 0) == (number not in refused)


def test_unknown_machine_is_an_error() -> None:
    """There is no filter that would let everything pass."""
    with pytest.raises(ValueError, match="`vax'"):
        filter_for("vax")
