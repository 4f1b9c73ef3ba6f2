# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of system calls that builders run under.

It keeps set-id bits off every file (chmod family, and the modes with which files are
created), pretends that file systems know no extended attributes (with which ACLs and
capabilities of files go), and hides io_uring, through which both could be had unseen,
and openat2, whose mode no filter can see. Programs take ENOSYS from these two as the
answer of an older kernel and go another way.

Set-id files of a build user have let one build take over another (Nix, June 2017);
attributes make outputs differ invisibly. Every ABI that the kernel offers beside the
native one is filtered by its own table, and foreign ones get ENOSYS for everything.

Entry point: `filter_for`.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from builder.spawner.bpf import (
    Item,
    Label,
    assemble,
    if_any_bit,
    if_at_least,
    if_equal,
    leave,
    load,
    mask,
)

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data

_ALL_BITS = 0xFFFFFFFF
_LEAF = 2

_SET_ID = 0o6000
_AF_INET, _AF_INET6, _SOCK_STREAM = 2, 10, 1
_TYPE = 0xF  # the rest of a socket's type are flags
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE: without them no mode is read


class Rule(Enum):
    """What is done with a system call; the numbers of tuples are positions of arguments.

    `INTERNET` lets only sockets of the internet be made, `PAIR` only connected pairs, which
    can reach nothing else.
    """

    MODE_1 = (1,)
    MODE_2 = (2,)
    FLAGS_1_MODE_2 = (1, 2)
    FLAGS_2_MODE_3 = (2, 3)
    NO_ATTRIBUTES = errno.EOPNOTSUPP
    ABSENT = errno.ENOSYS
    DENIED = errno.EPERM
    INTERNET = "internet"
    PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Abi:
    """One table of system calls.

    Attributes:
        audit: The AUDIT_ARCH_… number by which seccomp tells it.
        mask: Bits of the call's number that select a row.
        calls: Numbers and what is done with them.
    """

    audit: int
    mask: int
    calls: dict[int, Rule]


def _numbers(rule: Rule, *numbers: int) -> dict[int, Rule]:
    return dict.fromkeys(numbers, rule)


_COMMON = {
    452: Rule.MODE_2,  # fchmodat2
    **_numbers(Rule.NO_ATTRIBUTES, 463, 464, 465, 466),  # setxattrat and its kin
    **_numbers(Rule.ABSENT, 425, 426, 427, 437),  # io_uring_*, openat2
}
"""Since 5.1 a new call has the same number on all machines."""

_X86_64 = Abi(
    audit=0xC000003E,
    # x32 calls come with the same audit number and bit 30 set; those that concern us have
    # the numbers of the native ones.
    mask=0xBFFFFFFF,
    calls={
        2: Rule.FLAGS_1_MODE_2,  # open
        85: Rule.MODE_1,  # creat
        90: Rule.MODE_1,  # chmod
        91: Rule.MODE_1,  # fchmod
        133: Rule.MODE_1,  # mknod
        257: Rule.FLAGS_2_MODE_3,  # openat
        259: Rule.MODE_2,  # mknodat
        268: Rule.MODE_2,  # fchmodat
        **_numbers(Rule.NO_ATTRIBUTES, *range(188, 200)),  # setxattr … fremovexattr
        **_COMMON,
    },
)

_OLD_32 = {
    5: Rule.FLAGS_1_MODE_2,  # open
    8: Rule.MODE_1,  # creat
    14: Rule.MODE_1,  # mknod
    15: Rule.MODE_1,  # chmod
    94: Rule.MODE_1,  # fchmod
    **_numbers(Rule.NO_ATTRIBUTES, *range(226, 238)),  # setxattr … fremovexattr
    **_COMMON,
}

_I386 = Abi(
    audit=0x40000003,
    mask=_ALL_BITS,
    calls={
        **_OLD_32,
        295: Rule.FLAGS_2_MODE_3,  # openat
        297: Rule.MODE_2,  # mknodat
        306: Rule.MODE_2,  # fchmodat
    },
)

_ARM = Abi(
    audit=0x40000028,
    mask=_ALL_BITS,
    calls={
        **_OLD_32,
        322: Rule.FLAGS_2_MODE_3,  # openat
        324: Rule.MODE_2,  # mknodat
        333: Rule.MODE_2,  # fchmodat
    },
)

_GENERIC_CALLS = {
    33: Rule.MODE_2,  # mknodat
    52: Rule.MODE_1,  # fchmod
    53: Rule.MODE_2,  # fchmodat
    56: Rule.FLAGS_2_MODE_3,  # openat
    **_numbers(Rule.NO_ATTRIBUTES, *range(5, 17)),  # setxattr … fremovexattr
    **_COMMON,
}

_AARCH64 = Abi(audit=0xC00000B7, mask=_ALL_BITS, calls=_GENERIC_CALLS)
_RISCV64 = Abi(audit=0xC00000F3, mask=_ALL_BITS, calls=_GENERIC_CALLS)

_MACHINES = {
    "x86_64": (_X86_64, _I386),
    "i686": (_I386,),
    "aarch64": (_AARCH64, _ARM),
    "riscv64": (_RISCV64,),
}


def filter_for(machine: str) -> bytes:
    """Assemble the filter for a machine, as uname(2) names it.

    Returns:
        An array of ``struct sock_filter``.

    Raises:
        ValueError: No table for this machine is known.
    """
    abis = _MACHINES.get(machine)
    if abis is None:
        raise ValueError(f"no filter of system calls is known for `{machine}'")
    return assemble(list(program(abis)))


def program(abis: tuple[Abi, ...]) -> Iterator[Item]:
    """Give the program of a filter that knows these tables; calls of others do not exist."""
    yield load(_ARCHITECTURE)
    for abi in abis:
        yield if_equal(abi.audit, no=f"not {abi.audit}")
        yield from _table(abi)
        yield Label(f"not {abi.audit}")
    yield leave(_ERRNO | errno.ENOSYS)


class Range(NamedTuple):
    """Calls in a row with one rule; both ends belong to it."""

    low: int
    high: int
    rule: Rule


def _ranges(calls: dict[int, Rule]) -> list[Range]:
    ranges: list[Range] = []
    for number, rule in sorted(calls.items()):
        if ranges and ranges[-1].high == number - 1 and ranges[-1].rule is rule:
            ranges.append(ranges.pop()._replace(high=number))
        else:
            ranges.append(Range(number, number, rule))
    return ranges


def _table(abi: Abi) -> Iterator[Item]:
    """Look the call up, then do what its rule says; the architecture is out of the accumulator."""
    yield load(_NUMBER)
    if abi.mask != _ALL_BITS:
        yield mask(abi.mask)
    yield from _search(abi, _ranges(abi.calls))
    for rule in Rule:
        if rule in abi.calls.values():
            yield Label(f"{abi.audit} {rule.name}")
            yield from _apply(rule, f"{abi.audit} {rule.name} harmless")


def _search(abi: Abi, ranges: list[Range]) -> Iterator[Item]:
    """Search by halves: the kernel runs the filter once for every number when it is installed."""
    if len(ranges) > _LEAF:
        middle = len(ranges) // 2
        upper = f"{abi.audit} from {ranges[middle].low}"
        yield if_at_least(ranges[middle].low, yes=upper)
        yield from _search(abi, ranges[:middle])
        yield Label(upper)
        yield from _search(abi, ranges[middle:])
        return
    for low, high, rule in ranges:
        behind = f"{abi.audit} behind {high}"
        yield if_at_least(high + 1, yes=behind)
        yield if_at_least(low, yes=f"{abi.audit} {rule.name}")
        yield Label(behind)
    yield leave(_ALLOW)


def _apply(rule: Rule, harmless: str) -> Iterator[Item]:
    if isinstance(rule.value, int):
        yield leave(_ERRNO | rule.value)
        return
    if isinstance(rule.value, str):
        yield from _apply_to_sockets(rule, harmless)
        return
    *flags, mode = rule.value
    for argument in flags:
        yield load(_low_word(argument))
        yield if_any_bit(_CREATES, no=harmless)
    yield load(_low_word(mode))
    yield if_any_bit(_SET_ID, no=harmless)
    yield leave(_ERRNO | errno.EPERM)
    yield Label(harmless)
    yield leave(_ALLOW)


def _apply_to_sockets(rule: Rule, harmless: str) -> Iterator[Item]:
    if rule is Rule.INTERNET:
        yield load(_low_word(0))
        for family in (_AF_INET, _AF_INET6):
            yield if_equal(family, yes=harmless)
    else:
        yield load(_low_word(1))
        yield mask(_TYPE)
        yield if_equal(_SOCK_STREAM, yes=harmless)
    yield leave(_ERRNO | errno.EPERM)
    yield Label(harmless)
    yield leave(_ALLOW)


def _low_word(argument: int) -> int:
    """Give the offset of an argument's low half; every machine in the table is little-endian."""
    return _FIRST_ARGUMENT + 8 * argument
