# SPDX-License-Identifier: GPL-3.0-or-later
"""A store of its own for each test."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from store import base32
from store.database import StoreDatabase
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.layout import Layout
from store.paths import StorePath

MakePath = Callable[[str], StorePath]
MakeInfo = Callable[..., PathInfo]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The layout of an empty store, whose directories exist."""
    layout = Layout.under(str(tmp_path / "store"), str(tmp_path / "state"))
    for directory in (layout.store, layout.links, layout.state, layout.database):
        Path(directory).mkdir(parents=True)
    return layout


@pytest.fixture
async def database(layout: Layout) -> AsyncIterator[StoreDatabase]:
    """An open, empty database."""
    async with StoreDatabase.open(layout) as database:
        yield database


@pytest.fixture
def make_path(layout: Layout) -> MakePath:
    """Make the path of an item from its name; the same name makes the same path."""

    def make(name: str) -> StorePath:
        digits = base32.encode(random.Random(name).randbytes(20))
        return StorePath(f"{layout.store}/{digits}-{name}")

    return make


@pytest.fixture
def make_info(make_path: MakePath) -> MakeInfo:
    """Make what is known of an item, from its name and the names it refers to."""

    def make(name: str, *references: str, size: int = 120, deriver: str | None = None) -> PathInfo:
        return PathInfo(
            path=make_path(name),
            nar_hash=Digest.of(HashAlgorithm.SHA256, name.encode()),
            nar_size=size,
            references=frozenset(map(make_path, references)),
            deriver=make_path(deriver) if deriver else None,
        )

    return make
