# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixed outputs whose content lies somewhere already: copied, instead of built.

What a fixed output contains is known beforehand. Where the content index, or a
content source, says that something has this content, that is copied to a private
directory, and sealed there like what a builder left: its hash is computed from the
copy, so that what says wrong, or is being changed, costs time and nothing else. The
derivation is then built as if nothing had been said. Entry points:
`ContentLookup.obtain`, and `ContentLookup.obtain_locked` for who holds the locks.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from builder.derivation_cache import DerivationCache
from builder.directories import opened, private_directory
from builder.events import BuildEvent, ContentFound
from builder.inputs import closure_of, direct_inputs
from builder.logfile import LogFiles
from builder.outputs.cleaning import Cleaner
from builder.outputs.sealing import Sealer, Source
from locker.errors import LockError
from locker.pathlocks import PathLocks
from store.content_index import ContentIndex
from store.database import NewItem, StoreDatabase
from store.derivations import Derivation
from store.errors import StoreError
from store.hashes import Digest
from store.info import PathInfo
from store.paths import StorePath

_AT_ONCE = 4
"""Copies at once: each is a request to a store worker, of which there are not many more."""

Tell = Callable[[BuildEvent], object]

log = structlog.get_logger("builder")


class Place(Protocol):
    """Somewhere that content is said to be."""

    @property
    def label(self) -> str:
        """What to call it."""

    @property
    def size(self) -> int:
        """The bytes of its archive form, or a few more."""

    @property
    def references(self) -> Iterable[StorePath]:
        """Items that it is known to refer to."""

    def open(self) -> AbstractAsyncContextManager[tuple[int, str]]:
        """Open the directory it is in; its name there comes along.

        Raises:
            StoreError: It is not there any more.
            OSError: Likewise.
        """

    def forget(self) -> None:
        """Take note that it is not what it was said to be."""


class Finder(Protocol):
    """Knows places."""

    def find(self, content: Digest, *, recursive: bool) -> Iterator[Place]:
        """Yield where content is said to be, the best place first."""


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of the store as a place."""

    info: PathInfo
    store: str
    forget: Callable[[], None]

    @property
    def label(self) -> str:
        return self.info.path

    @property
    def size(self) -> int:
        return self.info.nar_size

    @property
    def references(self) -> Iterable[StorePath]:
        return (self.info.path, *self.info.references)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[int, str]]:
        with opened(self.store) as fd:
            yield fd, self.info.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ItemFinder:
    """Finds items of the store by the content index.

    Attributes:
        store: The store directory.
        database: What is valid.
        index: Which item has which content.
    """

    store: str
    database: StoreDatabase
    index: ContentIndex

    def find(self, content: Digest, *, recursive: bool) -> Iterator[Place]:
        """Yield the item that has some content, if one is known and there."""
        path = self.index.lookup(content, recursive=recursive)
        if path is None:
            return

        def forget() -> None:
            self.index.forget(content, recursive=recursive)

        if self.database.is_valid(path):
            yield _Item(self.database.path_info(path), self.store, forget)
        else:
            forget()


@dataclass(frozen=True, slots=True)
class ContentLookup:
    """Obtains fixed outputs without building them.

    Attributes:
        database: What is valid.
        locks: The locks of items.
        derivations: Says what its inputs are.
        cleaner: Deletes what is left behind.
        sealer: Checks copies, and puts them into the store.
        index: Told of what was copied.
        logs: Where it is said what happened.
        finders: Know where content is, asked in this order.
    """

    database: StoreDatabase
    locks: PathLocks
    derivations: DerivationCache
    cleaner: Cleaner
    sealer: Sealer
    index: ContentIndex
    logs: LogFiles
    finders: tuple[Finder, ...]
    _limiter: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(_AT_ONCE))

    async def obtain(
        self, drv: StorePath, derivation: Derivation, tell: Tell, *, keep_log: bool | None
    ) -> bool:
        """Make the output of a fixed derivation valid if its content is known; tell whether it is.

        Does not wait for whoever holds the output's lock.

        Args:
            drv: The derivation.
            derivation: What it says.
            tell: Told what happens.
            keep_log: Whether there is to be a log; None for the daemon's own choice.
        """
        if not self._is_known(derivation):
            return False
        try:
            async with self.locks.try_hold(derivation.output_paths) as held:
                if held is None:
                    return False
                held.delete_on_release()
                return await self.obtain_locked(drv, derivation, tell, keep_log=keep_log)
        except LockError:
            return False  # whoever builds meets it as well, and says so

    async def obtain_locked(
        self, drv: StorePath, derivation: Derivation, tell: Tell, *, keep_log: bool | None
    ) -> bool:
        """Do what `obtain` does, for who holds the output's lock."""
        if not self._is_known(derivation):
            return False
        [output] = derivation.output_paths
        if self.database.is_valid(output):
            return True
        try:
            inputs = await self._inputs(derivation)
        except (StoreError, OSError):
            return False  # it cannot be built either; whoever tries will say why
        async with self._limiter:
            for place in self._places(derivation):
                info = await self._try(drv, derivation, inputs, place)
                if info is not None:
                    tell(ContentFound(drv, info.path, place.label))
                    await self._log(drv, info.path, place.label, keep_log=keep_log)
                    return True
        return False

    def _is_known(self, derivation: Derivation) -> bool:
        return derivation.is_fixed_output and any(True for _ in self._places(derivation))

    def _places(self, derivation: Derivation) -> Iterator[Place]:
        recursive, content = derivation.outputs["out"].fixed_content()
        for finder in self.finders:
            yield from finder.find(content, recursive=recursive)

    async def _try(
        self,
        drv: StorePath,
        derivation: Derivation,
        inputs: Iterable[StorePath],
        place: Place,
    ) -> PathInfo | None:
        try:
            info = await self._copy(drv, derivation, {*inputs, *place.references}, place)
        except (StoreError, OSError) as error:
            place.forget()
            log.warning("content_not_usable", drv=drv, source=place.label, reason=str(error))
            return None
        log.info("content_found", drv=drv, output=info.path, source=place.label)
        remember(self.index, derivation, [info])
        return info

    async def _copy(
        self, drv: StorePath, derivation: Derivation, possible: Iterable[StorePath], place: Place
    ) -> PathInfo:
        [output] = derivation.output_paths
        async with self._private_directory(drv) as directory:
            async with place.open() as (fd, name):
                source = Source(fd, name, place.size)
                info = await self.sealer.seal_copy(drv, derivation, possible, directory, source)
            with trio.CancelScope(shield=True):
                self.sealer.place_download(output, directory)
                await self.database.register([NewItem(info)])
        return info

    async def _inputs(self, derivation: Derivation) -> frozenset[StorePath]:
        """Return what the output may refer to; of inputs that are not there, only themselves."""
        direct = direct_inputs(derivation, self.derivations.get)
        there = frozenset(filter(self.database.is_valid, direct))
        return direct | await closure_of(self.database, there)

    @asynccontextmanager
    async def _private_directory(self, drv: StorePath) -> AsyncIterator[str]:
        directory = private_directory(drv)
        await self.cleaner.vacate(directory)
        os.mkdir(directory, 0o700)
        try:
            yield directory
        finally:
            self.cleaner.discard((directory,))

    async def _log(
        self, drv: StorePath, output: StorePath, source: str, *, keep_log: bool | None
    ) -> None:
        """Say in the log what happened; a log that cannot be written spoils nothing."""
        text = f"copied `{output}' from `{source}', which has the same content; nothing was built\n"
        try:
            file = self.logs.create_wished(drv, wish=keep_log)
            if file is None:
                return
            await file.write(text.encode("utf-8", "surrogateescape"))
            await file.close()
        except OSError as error:
            log.warning("log_not_written", drv=drv, reason=str(error))


def remember(index: ContentIndex, derivation: Derivation, infos: Iterable[PathInfo]) -> None:
    """Note what is known of a derivation's outputs: other derivations may state the same."""
    known = list(infos)
    for info in known:
        index.record(info.nar_hash, info.path, recursive=True)
    if derivation.is_fixed_output:
        [path] = derivation.output_paths
        recursive, digest = derivation.outputs["out"].fixed_content()
        nar_hash = next((info.nar_hash for info in known if info.path == path), None)
        index.record(digest, path, recursive=recursive, nar_hash=nar_hash)
