# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of content sources."""

from collections.abc import AsyncIterator, Callable

import pytest

from store.content_index import ContentIndex
from store.content_sources import catalogue as module
from store.content_sources.catalogue import Catalogue, Entry
from store.hashes import Digest, HashAlgorithm
from store.layout import Layout
from store.paths import StorePath

SHA256, MD5 = HashAlgorithm.SHA256, HashAlgorithm.MD5
STAMP = b"stamp"


@pytest.fixture
async def catalogue(layout: Layout, content_index: ContentIndex) -> AsyncIterator[Catalogue]:
    """An empty catalogue beside a content index."""
    assert content_index.failure is None
    made = Catalogue(layout.index_file)
    yield made
    made.close()


def digest(number: int, algorithm: HashAlgorithm = SHA256) -> Digest:
    """Hash something."""
    return Digest.of(algorithm, str(number).encode())


def add(catalogue: Catalogue, number: int, path: str, *, tree: bool = False) -> None:
    """Record something by two algorithms."""
    hashes = {each: digest(number, each).value for each in (SHA256, MD5)}
    catalogue.record(Entry(0, "/m", path, 7, STAMP), hashes, tree=tree)


def paths(catalogue: Catalogue, content: Digest, *, tree: bool = False) -> list[str]:
    """Return where content is said to be."""
    return [entry.path for entry in catalogue.find(content, tree=tree)]


async def test_content_is_found_by_each_of_its_hashes(catalogue: Catalogue):
    """Files and directories apart; names need not be text."""
    add(catalogue, 1, "dir/\udcff")
    add(catalogue, 2, "dir", tree=True)
    assert paths(catalogue, digest(1)) == ["dir/\udcff"]
    assert paths(catalogue, digest(1, MD5)) == ["dir/\udcff"]
    assert paths(catalogue, digest(1), tree=True) == []
    assert paths(catalogue, digest(2), tree=True) == ["dir"]
    assert catalogue.count("/m") == (1, 1)
    assert catalogue.count("/other") == (0, 0)


async def test_only_what_looks_the_same_is_current(catalogue: Catalogue):
    """And is known by all the algorithms that count now."""
    add(catalogue, 1, "file")
    assert catalogue.is_current("/m", "file", STAMP, [SHA256, MD5], tree=False)
    assert not catalogue.is_current("/m", "file", b"other", [SHA256], tree=False)
    assert not catalogue.is_current("/m", "file", STAMP, [HashAlgorithm.SHA1], tree=False)
    assert not catalogue.is_current("/m", "file", STAMP, [SHA256], tree=True)
    assert not catalogue.is_current("/n", "file", STAMP, [SHA256], tree=False)


async def test_what_is_new_takes_the_place_of_what_was(catalogue: Catalogue):
    """With all its hashes."""
    add(catalogue, 1, "file")
    add(catalogue, 2, "file")
    assert paths(catalogue, digest(1)) == []
    [entry] = catalogue.find(digest(2), tree=False)
    catalogue.forget(entry.number)
    assert paths(catalogue, digest(2)) == []
    assert catalogue.count("/m") == (0, 0)


async def test_it_is_bounded(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    """What was not seen for longest goes first."""
    monkeypatch.setattr(module, "MOST_ENTRIES", 10)
    for number in range(25):
        monkeypatch.setattr(module.time, "time", lambda number=number: float(number))
        add(catalogue, number, f"file{number}")
    catalogue.prune()
    known = [number for number in range(25) if paths(catalogue, digest(number))]
    assert known == list(range(15, 25))


async def test_algorithms_in_use_are_those_that_files_of_the_store_are_known_by(
    catalogue: Catalogue, content_index: ContentIndex, make_path: Callable[[str], StorePath]
):
    """And sha256 always."""
    assert catalogue.algorithms_in_use() == {SHA256}
    content_index.record(digest(1, MD5), make_path("a"), recursive=False)
    content_index.record(digest(1, HashAlgorithm.SHA512), make_path("b"), recursive=True)
    await content_index.flush()
    assert catalogue.algorithms_in_use() == {SHA256, MD5}
