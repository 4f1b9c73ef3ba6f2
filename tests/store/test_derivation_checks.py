# SPDX-License-Identifier: GPL-3.0-or-later
"""Checking derivations on their way into the store."""

import os

import pytest

from store.derivation_checks import DerivationChecker, read_text
from store.derivations import (
    Derivation,
    Output,
    fill_output_paths,
    hash_derivation_modulo,
    unparse_derivation,
)
from store.errors import DerivationError
from store.layout import Layout
from store.paths import StoreDirectory, StorePath


def blank(*inputs: StorePath) -> Derivation:
    """Describe a build whose output path is not known yet."""
    return Derivation(
        {"out": Output("")},
        dict.fromkeys(inputs, ("out",)),
        (),
        "x86_64-linux",
        "/bin/sh",
        (),
        {"out": ""},
    )


def write_chain(directory: StoreDirectory, length: int) -> list[tuple[StorePath, bytes]]:
    """Write derivations into the store, each of which needs the one before."""
    hashes: dict[StorePath, bytes] = {}
    chain: list[tuple[StorePath, bytes]] = []
    for number in range(length):
        drv = fill_output_paths(
            blank(*(path for path, _ in chain[-1:])), str(number), directory, hashes.__getitem__
        )
        text = unparse_derivation(drv)
        path = directory.text_path(f"{number}.drv", bytes(31) + bytes([number % 256]), [])
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, text)
        os.close(fd)
        hashes[path] = hash_derivation_modulo(drv, hashes.__getitem__)
        chain.append((path, text))
    return chain


def test_outputs_are_given_by_name(layout: Layout):
    """With the hashes of inputs read from the store, and remembered."""
    directory = StoreDirectory(layout.store)
    chain = write_chain(directory, 200)
    checker = DerivationChecker(directory)
    path, text = chain[-1]
    inputs = frozenset([chain[-2][0]])
    assert not checker.is_quick(inputs, len(text))
    outputs = checker.check(path, text).outputs_by_name
    assert [directory.is_store_path(output) for output in outputs.values()] == [True]
    assert checker.is_quick(inputs, len(text))
    for before, _ in chain[:-1]:
        os.unlink(before)
    assert checker.check(path, text).outputs_by_name == outputs


def test_a_missing_input_is_named(layout: Layout):
    """It was not valid, or somebody removed it."""
    directory = StoreDirectory(layout.store)
    (first, _), (path, text) = write_chain(directory, 2)
    os.unlink(first)
    with pytest.raises(DerivationError, match=f"cannot read derivation `{first}'"):
        DerivationChecker(directory).check(path, text)


def test_long_derivations_are_not_quick(layout: Layout):
    """They are for a thread."""
    checker = DerivationChecker(StoreDirectory(layout.store))
    assert checker.is_quick(frozenset(), 1000)
    assert not checker.is_quick(frozenset(), 1_000_000)


def test_only_files_of_bearable_size_are_read(layout: Layout):
    """Others are no derivations."""
    huge = f"{layout.store}/huge"
    os.close(os.open(huge, os.O_CREAT | os.O_WRONLY))
    os.truncate(huge, 1 << 40)
    with pytest.raises(DerivationError, match="1099511627776 bytes"):
        read_text(None, huge)
    with pytest.raises(IsADirectoryError):
        read_text(None, layout.store)
