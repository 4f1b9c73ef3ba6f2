# SPDX-License-Identifier: GPL-3.0-or-later
"""The index from contents to items."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from store import content_index as module
from store.content_index import ContentIndex
from store.errors import DatabaseError
from store.hashes import Digest, HashAlgorithm
from store.layout import Layout
from store.paths import StorePath


def digest(number: int, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> Digest:
    """Hash something."""
    return Digest.of(algorithm, str(number).encode())


async def test_contents_lead_to_items(
    content_index: ContentIndex, make_path: Callable[[str], StorePath]
):
    """By algorithm, hash and kind of hash, each of which counts."""
    content_index.record(digest(1), make_path("a"), recursive=False)
    for _ in range(2):
        assert content_index.lookup(digest(1), recursive=False) == make_path("a")
        assert content_index.lookup(digest(1), recursive=True) is None
        assert content_index.lookup(digest(2), recursive=False) is None
        assert content_index.lookup(digest(1, HashAlgorithm.SHA1), recursive=False) is None
        await content_index.flush()


async def test_the_latest_item_counts(
    content_index: ContentIndex, make_path: Callable[[str], StorePath]
):
    """Until it is forgotten, in memory or on disk."""
    for name in ("a", "b"):
        content_index.record(digest(1), make_path(name), recursive=True)
        await content_index.flush()
    assert content_index.lookup(digest(1), recursive=True) == make_path("b")
    content_index.forget(digest(1), recursive=True)
    for _ in range(2):
        assert content_index.lookup(digest(1), recursive=True) is None
        await content_index.flush()


async def test_entries_outlive_the_daemon(layout: Layout, make_path: Callable[[str], StorePath]):
    """What was recorded last is written at the end."""
    async with ContentIndex.open(layout) as index:
        index.record(digest(1), make_path("a"), recursive=False)
    async with ContentIndex.open(layout) as index:
        assert index.lookup(digest(1), recursive=False) == make_path("a")


async def test_many_entries_are_written_by_themselves(
    content_index: ContentIndex, make_path: Callable[[str], StorePath], nursery: trio.Nursery
):
    """Memory holds only the latest."""
    nursery.start_soon(content_index.run)
    for number in range(2000):
        content_index.record(digest(number), make_path("a"), recursive=False)
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert len(content_index._pending) < 1000
    assert content_index.lookup(digest(0), recursive=False) == make_path("a")
    nursery.cancel_scope.cancel()


async def test_a_few_entries_are_written_after_a_while(
    content_index: ContentIndex,
    layout: Layout,
    make_path: Callable[[str], StorePath],
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
):
    """And builders find them by then."""
    monkeypatch.setattr(module, "_WRITTEN_AFTER", 0.001)
    nursery.start_soon(content_index.run)
    path = make_path("a")
    Path(path).write_text("text")
    content_index.record(digest(1), path, recursive=False)
    link = f"{layout.by_hash}/sha256/{digest(1).base16}"
    with trio.fail_after(10):
        while content_index._pending:
            await trio.sleep(0.001)
    assert os.readlink(link) == f"{layout.store}/.items/{os.path.basename(path)}"
    nursery.cancel_scope.cancel()


async def test_the_index_is_bounded(
    content_index: ContentIndex,
    make_path: Callable[[str], StorePath],
    monkeypatch: pytest.MonkeyPatch,
):
    """The oldest entries go, on disk and in memory."""
    monkeypatch.setattr(module, "_MOST_ENTRIES", 10)
    monkeypatch.setattr(module, "_MOST_PENDING", 20)
    for number in range(30):
        content_index.record(digest(number), make_path("a"), recursive=False)
    await content_index.flush()
    known = [n for n in range(30) if content_index.lookup(digest(n), recursive=False)]
    assert known == list(range(20, 30))


async def test_a_damaged_file_is_named(layout: Layout):
    """It may be deleted, which the message says."""
    fd = os.open(layout.index_file, os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"no database" * 100)
    os.close(fd)
    with pytest.raises(DatabaseError, match=r"storedaemon\.sqlite', which may be deleted"):
        async with ContentIndex.open(layout):
            pass
