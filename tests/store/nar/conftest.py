# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees as plain values, and their archives as the definition of the format has them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink

# A file's content, an executable file's content in a tuple, a link's target, or a directory.
Node = bytes | tuple[bytes] | str | dict[bytes, "Node"]


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def _words(*words: bytes) -> bytes:
    return b"".join(map(_string, words))


def _node(node: Node) -> bytes:
    if isinstance(node, bytes):
        return _words(b"(", b"type", b"regular", b"contents", node, b")")
    if isinstance(node, tuple):
        return _words(b"(", b"type", b"regular", b"executable", b"", b"contents", *node, b")")
    if isinstance(node, str):
        return _words(b"(", b"type", b"symlink", b"target", os.fsencode(node), b")")
    entries = [
        _words(b"entry", b"(", b"name", name, b"node") + _node(node[name]) + _words(b")")
        for name in sorted(node)
    ]
    return _words(b"(", b"type", b"directory") + b"".join(entries) + _words(b")")


def _events(node: Node, name: bytes = b"") -> list[NarEvent]:
    if isinstance(node, str):
        return [Symlink(name, os.fsencode(node))]
    if not isinstance(node, dict):
        content = node if isinstance(node, bytes) else node[0]
        start = Regular(name, isinstance(node, tuple), len(content))
        return [start, Content(memoryview(content))] if content else [start]
    inner = [event for key in sorted(node) for event in _events(node[key], key)]
    return [Directory(name), *inner, DirectoryEnd()]


def _joined(events: list[NarEvent]) -> list[NarEvent | bytes]:
    joined: list[NarEvent | bytes] = []
    for event in events:
        if not isinstance(event, Content):
            joined.append(event)
        elif joined and isinstance(joined[-1], bytes):
            joined[-1] += bytes(event.data)
        else:
            joined.append(bytes(event.data))
    return joined


@pytest.fixture(scope="session")
def words() -> Callable[..., bytes]:
    """Write words in the archive's form."""
    return _words


@pytest.fixture(scope="session")
def archive_of() -> Callable[[Node], bytes]:
    """Write a tree's archive from the format's definition, by recursion."""
    return lambda node: _words(b"nix-archive-1") + _node(node)


@pytest.fixture(scope="session")
def events_of() -> Callable[[Node], list[NarEvent]]:
    """Give a tree's events."""
    return _events


@pytest.fixture(scope="session")
def joined() -> Callable[[list[NarEvent]], list[NarEvent | bytes]]:
    """Put pieces of content together, so that only what an archive says is compared."""
    return _joined


@pytest.fixture(scope="session")
def nodes() -> st.SearchStrategy[Node]:
    """Trees of any shape, with names and contents that are any bytes."""
    names = st.binary(min_size=1, max_size=9).filter(
        lambda name: name not in {b".", b".."} and not set(name) & {0, ord("/")}
    )
    files = st.binary(max_size=40)
    links = st.binary(min_size=1, max_size=12).filter(lambda target: b"\0" not in target)
    leaves = files | st.tuples(files) | links.map(os.fsdecode)
    return st.recursive(
        leaves, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=8
    )


@pytest.fixture(scope="session")
def sample() -> Node:
    """A tree with something of everything."""
    return {
        b"Zed": b"capital letters come first",
        b"a": {b"empty": {}, b"run": (b"#!/bin/sh\n",)},
        b"a.b": b"",
        b"link": "../a/run",
        b"\xff\xfe": (b"eight by",),
    }


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the test's own directory."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(scope="session")
def make() -> Callable[[Path, Node], None]:
    """Make a tree on disk by path, with modes of an ordinary user's files."""

    def make(path: Path, node: Node) -> None:
        name = os.fsencode(path)
        if isinstance(node, str):
            os.symlink(node, name)
        elif isinstance(node, dict):
            os.mkdir(name)
            for key, inner in node.items():
                make(path / os.fsdecode(key), inner)
        else:
            path.write_bytes(node if isinstance(node, bytes) else node[0])
            path.chmod(0o755 if isinstance(node, tuple) else 0o644)

    return make
