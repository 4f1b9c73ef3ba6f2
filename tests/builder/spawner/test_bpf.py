# SPDX-License-Identifier: GPL-3.0-or-later
"""The assembler of filters."""

import struct

import pytest

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


def test_instructions_have_the_kernels_codes() -> None:
    """Each instruction is a `struct sock_filter` of eight bytes, as in <linux/bpf_common.h>."""
    items: list[Item] = [load(4), mask(7), if_equal(3, yes="end"), leave(1), Label("end"), leave(2)]
    decoded = list(struct.iter_unpack("=HBBI", assemble(items)))
    assert decoded == [
        (0x20, 0, 0, 4),
        (0x54, 0, 0, 7),
        (0x15, 1, 0, 3),
        (6, 0, 0, 1),
        (6, 0, 0, 2),
    ]


def test_jumps_count_what_they_skip() -> None:
    """A jump to the next instruction is one of zero."""
    items: list[Item] = [
        if_at_least(1, yes="a", no="b"),
        Label("a"),
        leave(1),
        Label("b"),
        leave(2),
    ]
    assert struct.unpack_from("=HBBI", assemble(items)) == (0x35, 0, 1, 1)
    other: list[Item] = [if_any_bit(1, no="b"), leave(1), Label("b"), leave(2)]
    assert struct.unpack_from("=HBBI", assemble(other)) == (0x45, 0, 1, 1)


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([if_equal(1, yes="nowhere")], "no label `nowhere'"),
        ([Label("a"), if_equal(1, yes="a")], "backwards"),
        ([Label("a"), Label("a")], "two labels"),
        ([if_equal(1, yes="a"), *[leave(0)] * 256, Label("a"), leave(0)], "jump of 256"),
        ([leave(0)] * 4097, "4097 instructions"),
    ],
)
def test_programs_that_cannot_be_are_refused(items: list[Item], problem: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(ValueError, match=problem):
        assemble(items)
