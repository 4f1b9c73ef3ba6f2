# SPDX-License-Identifier: GPL-3.0-or-later
"""`StoreWriter`: items that clients add, from the first byte to the registration.

An item is made in a private directory, hashed while it comes, then put into
place under its lock, and registered. A text, whose name is known beforehand, is
written in its place at once. Whatever goes wrong on the way, nothing is left but
perhaps a file in the private directory, which goes with it; a crash may leave an
item that is not registered, which is garbage, and in nobody's way.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256

import trio

from locker.pathlocks import PathLocks
from store import turns
from store.additions.incoming import Incoming
from store.additions.received import Addition, Body, Received, Tree, receive, write_text
from store.content_index import ContentIndex
from store.database import NewItem, StoreDatabase
from store.derivation_checks import DerivationChecker, read_text
from store.derivations import Derivation, unparse_derivation
from store.errors import DerivationError
from store.exports import Trailer
from store.files import delete_tree
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.layout import Layout
from store.links import MINIMUM_SIZE, Links, open_links, sweep_links
from store.paths import DERIVATION_SUFFIX, StoreDirectory, StorePath, is_derivation
from store.placing import place
from store.temproots import SessionRoots, TempRoots

# Texts up to here are written on the event loop, which takes less time than a trip to a thread.
_SMALL = 1 << 16
# Bytes of a text from which it is hashed in a thread, at about a millisecond a MiB.
_LONG = 1 << 20


DerivationObserver = Callable[[StorePath, int, Derivation], object]
"""Called with a derivation that is valid now, and the bytes of its text."""

_NO_OUTPUTS: Mapping[str, StorePath] = {}


def _ignore(_path: StorePath, _size: int, _derivation: Derivation) -> None:
    """Take no notice."""


class StoreWriter:
    """Adds items to the store; make one with `open`."""

    def __init__(
        self,
        layout: Layout,
        database: StoreDatabase,
        locks: PathLocks,
        incoming: Incoming,
        links: Links | None,
        index: ContentIndex,
    ) -> None:
        self._directory = StoreDirectory(layout.store)
        self._prefix = len(layout.store) + 1
        self._database = database
        self._locks = locks
        self._incoming = incoming
        self._links = links
        self._index = index
        self._checker = DerivationChecker(self._directory)
        self.derivation_hashes = partial(self._checker.statistics, "derivation-hashes-added")
        self._observer: DerivationObserver = _ignore

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        layout: Layout,
        database: StoreDatabase,
        locks: PathLocks,
        temp_roots: TempRoots,
        index: ContentIndex,
        *,
        deduplicate: bool = True,
    ) -> AsyncIterator["StoreWriter"]:
        """Make the private directory and sweep what dead daemons left, then add to the store.

        Args:
            layout: Of the store, whose directory exists.
            database: Where items are registered.
            locks: Locks items while they are put into place.
            temp_roots: Keeps the private directory from collectors.
            index: Told of the hashes of what is added.
            deduplicate: Whether equal files share an inode.
        """
        async with Incoming.open(layout, temp_roots) as incoming:
            links_fd = open_links(incoming.store_fd)
            try:
                await trio.to_thread.run_sync(sweep_links, links_fd)
                links = Links(links_fd) if deduplicate else None
                yield cls(layout, database, locks, incoming, links, index)
            finally:
                os.close(links_fd)

    @property
    def store_fd(self) -> int:
        """The store's directory, for as long as the context lasts."""
        return self._incoming.store_fd

    def observe_derivations(self, observer: DerivationObserver) -> None:
        """Have somebody told of each derivation that is added from now on."""
        self._observer = observer

    async def add_text(
        self, roots: SessionRoots, name: str, text: bytes, references: Collection[StorePath]
    ) -> StorePath:
        """Add a text file.

        Args:
            roots: Of the session that adds; the item becomes one.
            name: Of the item.
            text: The file's bytes.
            references: The items it refers to; they are not looked for in it.

        Raises:
            InvalidPathError: No item may have the name.
            NotValidError: A reference is not valid.
            DerivationError: It is called a derivation, and is none or a false one.
        """
        compute = partial(_name_text, self._directory, name, text, references)
        much = len(text) > _LONG or len(references) > turns.PORTION
        digest, path = await turns.run(compute, much=much)
        await roots.add(path)
        if not self._database.is_valid(path):
            put = partial(self._write_text, path, text)
            await self._place(path, put, lambda: text, frozenset(references))
            # To look a smaller one up by its hash would not spare anybody anything.
            if len(text) >= MINIMUM_SIZE and not is_derivation(path):
                flat = Digest(HashAlgorithm.SHA256, digest)
                self._index.record(flat, path, recursive=False)
        return path

    async def add_derivation(
        self, roots: SessionRoots, name: str, derivation: Derivation
    ) -> tuple[StorePath, Mapping[str, StorePath]]:
        """Add a derivation whose output paths are yet to be computed.

        Args:
            roots: Of the session that adds; the derivation becomes one.
            name: Of the derivation, without ``.drv``.
            derivation: What to build; what it says of output paths is overwritten.

        Returns:
            Its path, and its outputs by name.

        Raises:
            InvalidPathError: No item may have the name.
            NotValidError: An input is not valid.
            DerivationError: It contradicts itself.
        """
        complete = await trio.to_thread.run_sync(self._checker.complete, derivation, name)
        text = unparse_derivation(complete)
        file = f"{name}{DERIVATION_SUFFIX}"
        path = await self.add_text(roots, file, text, complete.references)
        return path, complete.outputs_by_name

    async def _write_text(self, path: StorePath, text: bytes) -> Received | None:
        """Write a text in its place; return None if that is valid."""
        dirfd, name = self._incoming.store_fd, path[self._prefix :]
        write = partial(write_text, dirfd, name, text)
        try:
            received = write() if len(text) <= _SMALL else await trio.to_thread.run_sync(write)
        except FileExistsError:
            if self._database.is_valid(path):
                return None
            # A crash left it.
            await trio.to_thread.run_sync(delete_tree, dirfd, name)
            return await self._write_text(path, text)
        if received.links:
            await self._share_files(dirfd, name, received)
        return received

    def begin_addition(
        self,
        algorithm: HashAlgorithm = HashAlgorithm.SHA256,
        *,
        recursive: bool,
        body: Body = Body.NAR,
        size: int | None = None,
    ) -> Addition:
        """Begin to receive an item that is named after its hash.

        Feed it the body, on any thread. Then either `commit` it or `abandon` it.

        Args:
            algorithm: Of the hash.
            recursive: Whether the archive is hashed, or the bytes of a single file.
            body: The form in which it comes; a recursive one as an archive.
            size: Bytes of a plain body, if known; else it is read once more at the end.
        """
        assert not recursive or body is Body.NAR
        return receive(self._incoming, algorithm, recursive=recursive, body=body, size=size)

    async def commit(self, roots: SessionRoots, addition: Addition, name: str) -> StorePath:
        """Make an item of what was received, unless it is there already.

        Args:
            roots: Of the session that adds; the item becomes one.
            addition: Whose body has ended; of no more use afterwards, whatever happens.
            name: Of the item.

        Raises:
            NarError: The body has not ended.
            InvalidPathError: No item may have the name.
            DerivationError: It is called a derivation, and is none or a false one.
        """
        try:
            received = await _end(addition)
            recursive = addition.recursive
            path = self._directory.fixed_output_path(name, recursive, received.digest)
            await roots.add(path)
            if not self._database.is_valid(path):
                await self._place_addition(path, addition, received)
            self._index.record(
                received.digest, path, recursive=recursive, nar_hash=received.nar_hash
            )
        finally:
            await self.abandon(addition)
        return path

    def begin_import(self) -> Tree:
        """Begin to receive the archive of an item whose name comes later.

        Feed it the archive, on any thread. Then either `commit_import` it or `abandon` it.
        """
        return Tree(self._incoming, HashAlgorithm.SHA256)

    async def commit_import(self, roots: SessionRoots, addition: Tree, item: Trailer) -> None:
        """Make an item of what was received under the name it came with, unless it is valid.

        Args:
            roots: Of the session that imports; the item becomes one.
            addition: Whose archive has ended; of no more use afterwards, whatever happens.
            item: What somebody vouches for, whose word the caller has checked. A
                deriver that is not valid here is left out, as in the reference.

        Raises:
            NotValidError: A reference is not valid.
            DerivationError: It is called a derivation, and is none or a false one.
        """
        try:
            received = await _end(addition)
            await roots.add(item.path)
            if not self._database.is_valid(item.path):
                await self._place_addition(
                    item.path, addition, received, item.references, item.deriver
                )
        finally:
            await self.abandon(addition)

    async def abandon(self, addition: Addition) -> None:
        """Drop what was received; does no harm a second time. Not cancelled."""
        addition.close()
        await self._incoming.discard(addition.name)

    async def _place_addition(
        self,
        path: StorePath,
        addition: Addition,
        received: Received,
        references: frozenset[StorePath] = frozenset(),
        deriver: StorePath | None = None,
    ) -> None:
        private_fd, name = self._incoming.fd, addition.name

        async def move() -> Received | None:
            if self._database.is_valid(path):
                return None
            if received.links:
                await self._share_files(private_fd, name, received)
            place(private_fd, name, self.store_fd, path[self._prefix :])
            return received

        read = partial(_read_derivation, private_fd, name)
        if await self._place(path, move, read, references, deriver) and not is_derivation(path):
            self._index.record(received.nar_hash, path, recursive=True)

    async def _place(
        self,
        path: StorePath,
        put: Callable[[], Awaitable[Received | None]],
        read: Callable[[], bytes],
        references: frozenset[StorePath],
        deriver: StorePath | None = None,
    ) -> bool:
        """Put an item into place and register it, under its lock; not if it is valid by then.

        Args:
            path: The item.
            put: Puts it there, in place of what a crash may have left; None if it is valid.
            read: Gives the text of a derivation before it is there.
            references: What it refers to.
            deriver: What made it; left out where that is not valid.
        """
        lease = await self._locks.acquire((path,))
        try:
            lease.delete_on_release()
            derivation, outputs = None, _NO_OUTPUTS
            if is_derivation(path):
                text = read()
                derivation = await self._check_derivation(path, text, references)
                outputs = derivation.outputs_by_name
            try:
                received = await put()
                if received is None:
                    return False
                known = deriver if deriver and self._database.is_valid(deriver) else None
                info = PathInfo(path, received.nar_hash, received.nar_size, references, known)
                await self._database.register([NewItem(info, outputs)])
            except BaseException:
                await self._take_away(path)
                raise
            if derivation is not None:
                self._observer(path, len(text), derivation)
        finally:
            await lease.release()
        return True

    async def _take_away(self, path: StorePath) -> None:
        """Delete what stands where an item was to be, unless it is one after all."""
        if not self._database.is_valid(path):
            with trio.CancelScope(shield=True):
                name = path[self._prefix :]
                await trio.to_thread.run_sync(delete_tree, self.store_fd, name)

    async def _check_derivation(
        self, path: StorePath, text: bytes, references: frozenset[StorePath]
    ) -> Derivation:
        if self._checker.is_quick(references, len(text)):
            return self._checker.check(path, text)
        return await trio.to_thread.run_sync(self._checker.check, path, text)

    async def _share_files(self, dirfd: int, name: str, received: Received) -> None:
        if self._links is None:
            return
        share = partial(self._links.deduplicate_tree, dirfd, name, received.links)
        if len(received.links) == 1:
            share()
        else:
            await trio.to_thread.run_sync(share)


def _name_text(
    directory: StoreDirectory, name: str, text: bytes, references: Collection[StorePath]
) -> tuple[bytes, StorePath]:
    digest = sha256(text).digest()
    return digest, directory.text_path(name, digest, references)


def _read_derivation(dirfd: int, name: str) -> bytes:
    try:
        return read_text(dirfd, name)
    except OSError as error:
        raise DerivationError(f"a derivation must be a file: {error.strerror}") from error


async def _end(addition: Addition) -> Received:
    if addition.taken <= _SMALL:
        return addition.end()
    return await trio.to_thread.run_sync(addition.end)
