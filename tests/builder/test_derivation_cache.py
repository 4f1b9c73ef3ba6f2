# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations that are read and parsed once."""

import threading
from typing import TYPE_CHECKING

import pytest
import trio

from builder.derivation_cache import LONG, DerivationCache
from store.derivations import Derivation
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.conftest import MakeDerivation, MakePath


class Shelf:
    """Texts of a size, whose parsing is watched."""

    def __init__(self, size: int, derivation: Derivation) -> None:
        self.size = size
        self.derivation = derivation
        self.parsed_by: list[int] = []

    def read(self, _path: StorePath) -> bytes:
        """Return a text."""
        return bytes(self.size)

    def parse(self, _text: bytes, _path: StorePath) -> Derivation:
        """Note which thread this is."""
        self.parsed_by.append(threading.get_ident())
        return self.derivation


@pytest.mark.parametrize("size", [LONG, LONG + 1])
async def test_a_long_text_is_parsed_by_a_thread(
    path: "MakePath", derivation: "MakeDerivation", size: int
):
    """Once for all tasks that come later; a short one is parsed at once."""
    shelf = Shelf(size, derivation("app"))
    cache = DerivationCache(shelf.read, shelf.parse)
    assert await cache.load(path("app.drv")) is shelf.derivation
    assert await cache.load(path("app.drv")) is cache.get(path("app.drv"))
    [parser] = shelf.parsed_by
    assert (parser == threading.get_ident()) == (size <= LONG)


async def test_two_tasks_that_load_the_same_count_its_size_once(
    path: "MakePath", derivation: "MakeDerivation"
):
    """Otherwise the cache would forget others sooner than it must."""
    shelf = Shelf(2 * LONG, derivation("app"))
    cache = DerivationCache(shelf.read, shelf.parse)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(cache.load, path("app.drv"))
    found = cache.statistics()
    assert (found.entries, found.used) == (1, 2 * LONG)
