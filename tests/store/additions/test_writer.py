# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding items to a real store."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from locker.client import Locker
from locker.pathlocks import PathLocks
from store.additions import Body, StoreWriter
from store.content_index import ContentIndex
from store.database import NewItem, StoreDatabase
from store.derivations import Derivation, Output, fill_output_paths, unparse_derivation
from store.errors import DerivationError, InvalidPathError, NarError, NotValidError
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.layout import Layout
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink
from store.nar.hash import nar_hash_of
from store.nar.writer import write
from store.paths import StoreDirectory, StorePath
from store.temproots import SessionRoots, TempRoots

BIG = bytes(range(256)) * 64


@pytest.fixture
def roots(temp_roots: TempRoots) -> Iterable[SessionRoots]:
    """The roots of one session."""
    with temp_roots.session() as session:
        yield session


def nar_of(events: Iterable[NarEvent]) -> bytes:
    """Make an archive."""
    return b"".join(map(bytes, write(events)))


def file_events(content: bytes, *, name: bytes = b"", executable: bool = False) -> list[NarEvent]:
    """Describe a file."""
    head: list[NarEvent] = [Regular(name, executable, len(content))]
    return [*head, Content(memoryview(content))] if content else head


TREE: list[NarEvent] = [
    Directory(b""),
    *file_events(BIG, name=b"a"),
    Directory(b"d"),
    *file_events(BIG, name=b"same"),
    *file_events(b"small", name=b"x", executable=True),
    DirectoryEnd(),
    Symlink(b"l", b"/nowhere"),
    DirectoryEnd(),
]


def entries(layout: Layout) -> list[str]:
    """List the store, but for what belongs to the daemon."""
    return sorted(name for name in os.listdir(layout.store) if not name.startswith("."))


def leftovers(layout: Layout) -> list[str]:
    """List what lies in private directories."""
    return [
        name
        for directory in os.listdir(layout.store)
        if directory.startswith(".incoming")
        for name in os.listdir(f"{layout.store}/{directory}")
    ]


async def add(
    writer: StoreWriter, roots: SessionRoots, data: bytes, *, recursive: bool, **kind: object
) -> StorePath:
    """Add a body in small pieces."""
    addition = writer.begin_addition(recursive=recursive, **kind)
    try:
        for start in range(0, len(data), 1000):
            piece = memoryview(data)[start : start + 1000]
            assert addition.feed(piece) == len(piece)
    except BaseException:
        await writer.abandon(addition)
        raise
    return await writer.commit(roots, addition, "item")


def assert_canonical(path: str) -> None:
    """See that an item has the store's metadata all over."""
    for name in (path, *(str(below) for below in Path(path).rglob("*"))):
        status = os.lstat(name)
        assert status.st_mtime_ns == 1_000_000_000, name
        assert stat.S_ISLNK(status.st_mode) or stat.S_IMODE(status.st_mode) in (0o444, 0o555), name


def assert_registered(database: StoreDatabase, layout: Layout, path: StorePath) -> PathInfo:
    """See that what is registered of an item is true of what is on disk."""
    info = database.path_info(path)
    fd = os.open(layout.store, os.O_RDONLY)
    assert nar_hash_of(fd, path.rpartition("/")[2]) == (info.nar_hash, info.nar_size)
    os.close(fd)
    return info


async def test_a_text_is_added_and_registered(
    writer: StoreWriter, roots: SessionRoots, database: StoreDatabase, layout: Layout
):
    """With its references, canonical, rooted, and without a trace beside it."""
    first = await writer.add_text(roots, "first", b"hello", [])
    path = await writer.add_text(roots, "second", b"hello", [first])
    expected = StoreDirectory(layout.store).text_path(
        "second", hashlib.sha256(b"hello").digest(), [first]
    )
    assert path == expected
    assert assert_registered(database, layout, path).references == {first}
    assert_canonical(path)
    assert path in roots
    assert entries(layout) == sorted(name.rpartition("/")[2] for name in (first, path))
    assert leftovers(layout) == []


async def test_an_item_that_is_there_is_not_made_again(
    writer: StoreWriter, roots: SessionRoots, database: StoreDatabase
):
    """Its file and registration stay as they are."""
    path = await writer.add_text(roots, "a", b"hello", [])
    inode = os.stat(path).st_ino
    await database.update_hash(path, Digest.of(HashAlgorithm.SHA256, b""), 7)
    assert await writer.add_text(roots, "a", b"hello", []) == path
    assert os.stat(path).st_ino == inode
    assert database.path_info(path).nar_size == 7


async def test_a_leftover_of_a_crash_is_replaced(
    writer: StoreWriter, roots: SessionRoots, database: StoreDatabase, layout: Layout
):
    """Whatever it is."""
    path = StoreDirectory(layout.store).text_path("a", hashlib.sha256(b"hello").digest(), [])
    os.makedirs(f"{path}/sub")
    assert await writer.add_text(roots, "a", b"hello", []) == path
    assert_registered(database, layout, path)


async def test_a_text_with_an_invalid_reference_leaves_nothing(
    writer: StoreWriter,
    roots: SessionRoots,
    layout: Layout,
    make_path: Callable[[str], StorePath],
):
    """The reference is named."""
    with pytest.raises(NotValidError, match=f"path `{make_path('gone')}' is not valid"):
        await writer.add_text(roots, "a", b"hello", [make_path("gone")])
    assert entries(layout) == []
    assert leftovers(layout) == []


async def test_a_bad_name_is_refused(writer: StoreWriter, roots: SessionRoots, layout: Layout):
    """For texts and bodies."""
    with pytest.raises(InvalidPathError):
        await writer.add_text(roots, ".hidden", b"", [])
    addition = writer.begin_addition(recursive=True)
    body = nar_of(file_events(b"x"))
    addition.feed(memoryview(body))
    with pytest.raises(InvalidPathError):
        await writer.commit(roots, addition, "a/b")
    assert entries(layout) == leftovers(layout) == []


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA1])
async def test_a_tree_is_added(
    writer: StoreWriter,
    roots: SessionRoots,
    database: StoreDatabase,
    layout: Layout,
    algorithm: HashAlgorithm,
):
    """Named by the hash of its archive."""
    body = nar_of(TREE)
    path = await add(writer, roots, body, recursive=True, algorithm=algorithm)
    digest = Digest.of(algorithm, body)
    assert path == StoreDirectory(layout.store).fixed_output_path("item", True, digest)
    assert_registered(database, layout, path)
    assert_canonical(path)
    assert os.readlink(f"{path}/l") == "/nowhere"
    assert os.access(f"{path}/d/x", os.X_OK)
    assert leftovers(layout) == []


@pytest.mark.parametrize("content", [b"", b"abc", BIG, BIG * 100], ids=len)
@pytest.mark.parametrize("kind", ["nar", "sized", "unsized"])
async def test_a_file_is_added_by_the_hash_of_its_bytes(
    writer: StoreWriter,
    roots: SessionRoots,
    database: StoreDatabase,
    layout: Layout,
    content: bytes,
    kind: str,
):
    """However it comes; that its archive says executable is ignored, as in the reference."""
    if kind == "nar":
        body, options = nar_of(file_events(content, executable=True)), {}
    else:
        size = len(content) if kind == "sized" else None
        body, options = content, {"body": Body.PLAIN, "size": size}
    algorithm = HashAlgorithm.SHA512
    path = await add(writer, roots, body, recursive=False, algorithm=algorithm, **options)
    digest = Digest.of(algorithm, content)
    assert path == StoreDirectory(layout.store).fixed_output_path("item", False, digest)
    assert_registered(database, layout, path)
    assert_canonical(path)
    assert await trio.Path(path).read_bytes() == content


async def test_equal_files_share_an_inode(writer: StoreWriter, roots: SessionRoots, layout: Layout):
    """Within an item, between items, and with `.links`; small ones do not."""
    tree = await add(writer, roots, nar_of(TREE), recursive=True)
    file = await add(writer, roots, BIG, recursive=False, body=Body.PLAIN)
    await writer.add_text(roots, "small", b"x", [])
    inodes = {os.stat(path).st_ino for path in (f"{tree}/a", f"{tree}/d/same", file)}
    assert len(inodes) == 1
    [link] = os.listdir(layout.links)
    assert link == Digest.of(HashAlgorithm.SHA256, nar_of(file_events(BIG))).base32
    assert os.stat(f"{layout.links}/{link}").st_nlink == 4
    assert_canonical(tree)


async def test_what_follows_an_archive_is_not_taken(writer: StoreWriter, roots: SessionRoots):
    """It belongs to the next message."""
    body = nar_of(file_events(b"abc"))
    addition = writer.begin_addition(recursive=True)
    assert addition.feed(memoryview(body + b"more")) == len(body)
    assert addition.finished
    await writer.commit(roots, addition, "item")


@pytest.mark.parametrize(
    ("body", "recursive", "complaint"),
    [
        (nar_of(TREE), False, "regular file expected"),
        (nar_of([Symlink(b"", b"x")]), False, "regular file expected"),
        (b"nonsense" * 10, True, "bad archive"),
        (nar_of(TREE)[:-8], True, "ends before it is complete"),
        (nar_of(file_events(BIG))[:-2000], False, "ends before it is complete"),
    ],
)
async def test_a_bad_body_leaves_nothing(
    writer: StoreWriter,
    roots: SessionRoots,
    layout: Layout,
    body: bytes,
    recursive: bool,
    complaint: str,
):
    """Whether it is wrong or cut short."""
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NarError, match=complaint):
        await add(writer, roots, body, recursive=recursive)
    assert entries(layout) == leftovers(layout) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_a_plain_body_that_is_too_short_is_refused(
    writer: StoreWriter, roots: SessionRoots, layout: Layout
):
    """The size is a promise."""
    with pytest.raises(NarError, match="3 bytes came, where 5 were announced"):
        await add(writer, roots, b"abc", recursive=False, body=Body.PLAIN, size=5)
    assert leftovers(layout) == []


async def test_the_lock_of_the_item_is_respected(
    writer: StoreWriter,
    roots: SessionRoots,
    layout: Layout,
    locker: Locker,
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    nursery: trio.Nursery,
):
    """Who finds an item valid after waiting makes it no more."""
    directory = StoreDirectory(layout.store)
    path = directory.text_path("a", hashlib.sha256(b"hello").digest(), [])
    added = trio.Event()

    async def add_text() -> None:
        await writer.add_text(roots, "a", b"hello", [])
        added.set()

    async with PathLocks(locker).hold([path]):
        nursery.start_soon(add_text)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not added.is_set()
        Path(path).write_bytes(b"hello")
        made = os.stat(path).st_ctime_ns
        template = make_info("a")
        info = PathInfo(path, template.nar_hash, 1, frozenset())
        await database.register([NewItem(info)])
    await added.wait()
    assert os.stat(path).st_ctime_ns == made
    assert database.path_info(path).nar_size == 1
    name = path.rpartition("/")[2]
    assert entries(layout) in ([name], [name, f"{name}.lock"])


async def test_cancelled_additions_leave_nothing(
    writer: StoreWriter, roots: SessionRoots, layout: Layout, locker: Locker
):
    """Not even while they wait for a lock."""
    path = StoreDirectory(layout.store).text_path("a", hashlib.sha256(b"hello").digest(), [])
    async with PathLocks(locker).hold([path]):
        with trio.move_on_after(0.02) as scope:
            await writer.add_text(roots, "a", b"hello", [])
    assert scope.cancelled_caught
    assert [name for name in entries(layout) if not name.endswith(".lock")] == []
    assert leftovers(layout) == []


def example_derivation(directory: StoreDirectory) -> Derivation:
    """Make a derivation with true output paths."""
    blank = Derivation({"out": Output("")}, {}, (), "x86_64-linux", "/bin/sh", (), {"out": ""})
    return fill_output_paths(blank, "x", directory, dict[StorePath, bytes]().__getitem__)


async def test_a_derivation_is_registered_with_its_outputs(
    writer: StoreWriter, roots: SessionRoots, layout: Layout, database: StoreDatabase
):
    """So that the collector can ask for them."""
    drv = example_derivation(StoreDirectory(layout.store))
    text, told = unparse_derivation(drv), []
    writer.observe_derivations(lambda *known: told.append(known))
    path = await writer.add_text(roots, "x.drv", text, [])
    assert database.derivation_outputs(path) == [drv.outputs["out"].path]
    assert told == [(path, len(text), drv)]
    await writer.add_text(roots, "x.drv", text, [])
    await writer.add_text(roots, "plain", text, [])
    assert len(told) == 1


async def test_a_false_derivation_is_refused(
    writer: StoreWriter,
    roots: SessionRoots,
    layout: Layout,
    make_path: Callable[[str], StorePath],
):
    """Nobody can claim another path as an output."""
    drv = example_derivation(StoreDirectory(layout.store))
    claimed = unparse_derivation(drv).replace(
        drv.outputs["out"].path.encode(), make_path("x").encode()
    )
    with pytest.raises(DerivationError, match="has incorrect output"):
        await writer.add_text(roots, "x.drv", claimed, [])
    with pytest.raises(DerivationError):
        await writer.add_text(roots, "x.drv", b"nonsense", [])
    addition = writer.begin_addition(recursive=True)
    addition.feed(memoryview(nar_of(TREE)))
    with pytest.raises(DerivationError, match="a derivation must be a file"):
        await writer.commit(roots, addition, "x.drv")
    assert entries(layout) == leftovers(layout) == []


async def test_the_content_index_learns_from_additions(
    writer: StoreWriter, roots: SessionRoots, content_index: ContentIndex
):
    """By the hash that was asked for."""
    path = await add(writer, roots, BIG, recursive=False, body=Body.PLAIN)
    digest = Digest.of(HashAlgorithm.SHA256, BIG)
    assert content_index.lookup(digest, recursive=False) == path
    assert content_index.lookup(digest, recursive=True) is None


@pytest.mark.parametrize(("text", "noted"), [(BIG[:8192], True), (BIG[:8191], False)])
async def test_the_content_index_learns_of_texts_that_are_worth_it(
    writer: StoreWriter,
    roots: SessionRoots,
    content_index: ContentIndex,
    text: bytes,
    *,
    noted: bool,
):
    """To find a smaller one would spare nobody anything."""
    path = await writer.add_text(roots, "text", text, [])
    digest = Digest.of(HashAlgorithm.SHA256, text)
    assert content_index.lookup(digest, recursive=False) == (path if noted else None)


async def test_private_directories_of_the_dead_are_swept(
    layout: Layout,
    database: StoreDatabase,
    locker: Locker,
    temp_roots: TempRoots,
    content_index: ContentIndex,
):
    """Those of the living are not."""
    locks = PathLocks(locker)
    os.makedirs(f"{layout.store}/.incoming-1-dead/0", mode=0o700)
    os.chmod(f"{layout.store}/.incoming-1-dead", 0o700)
    os.close(os.open(f"{layout.links}/.tmp-link-4194303-dead", os.O_CREAT))
    parts = (layout, database, locks, temp_roots, content_index)
    async with StoreWriter.open(*parts):
        [alive] = [name for name in os.listdir(layout.store) if name.startswith(".incoming")]
        assert "dead" not in alive
        assert os.listdir(layout.links) == []
        async with StoreWriter.open(*parts):
            assert alive in os.listdir(layout.store)
    assert os.listdir(layout.store) == [".links"]


async def test_the_private_directory_is_a_temporary_root(
    writer: StoreWriter, layout: Layout, temp_roots: TempRoots
):
    """No collector of either daemon deletes it, and nobody else can look into it."""
    assert writer.store_fd >= 0
    [name] = [name for name in os.listdir(layout.store) if name.startswith(".incoming")]
    assert f"{layout.store}/{name}" in temp_roots.live()
    assert stat.S_IMODE(os.stat(f"{layout.store}/{name}").st_mode) == 0o700


async def test_many_clients_add_the_same_at_once(
    writer: StoreWriter, temp_roots: TempRoots, database: StoreDatabase, layout: Layout
):
    """One of them makes it, and all get it."""
    paths: list[StorePath] = []

    async def add_all() -> None:
        with temp_roots.session() as session:
            for number in range(20):
                paths.append(await writer.add_text(session, "t", b"%d" % number, []))
                await trio.lowlevel.checkpoint()
            paths.append(await add(writer, session, nar_of(TREE), recursive=True))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(add_all)
    assert len(paths) == 6 * 21
    assert await database.all_valid_paths() == set(paths)
    assert entries(layout) == sorted(path.rpartition("/")[2] for path in set(paths))
    for path in set(paths):
        assert_registered(database, layout, path)
    assert leftovers(layout) == []
