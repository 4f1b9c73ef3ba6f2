# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking in what another store exported, if somebody vouches for it whom the owner trusts.

No client is trusted to import what nobody signed, not even root, as in the
reference. Items are registered one by one, as each is complete; what was begun
when a client leaves, or turns out to lie, leaves no trace. Entry point: `importing`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from store.additions.received import Tree
from store.exports import ExportReader, ReadItem
from store.paths import StorePath
from store.signatures.keys import SignatureError
from storedaemon.services import Services
from storedaemon.session import Session

# Pieces up to here are dealt with on the event loop, which takes less time than a trip to a thread.
_SMALL = 4096


@asynccontextmanager
async def importing(services: Services, session: Session) -> AsyncIterator["Import"]:
    """Import what comes, and keep it until the session ends."""
    work = Import(services, session)
    try:
        yield work
    finally:
        await work.abandon()


class Import:
    """A stream of items that is being imported.

    Args:
        services: The daemon's.
        session: The client's.

    Attributes:
        paths: What was imported, in order; what was valid already counts.
    """

    def __init__(self, services: Services, session: Session) -> None:
        self.paths: list[StorePath] = []
        self._services = services
        self._session = session
        self._tree: Tree | None = None
        self._reader = ExportReader(services.directory, self._begin)

    @property
    def finished(self) -> bool:
        """Whether the stream's end has come."""
        return self._reader.finished

    async def feed(self, data: bytes) -> int:
        """Take some more of the stream; give how many bytes belong to it.

        Raises:
            ExportError: This is no stream of exported items.
            NarError: An archive is not what it must be.
            SignatureError: An item is not signed, not well, or by nobody who may.
            NotValidError: An item refers to one that is neither valid nor came before.
            StoreError: Whatever else keeps an item out of the store.
        """
        view, taken = memoryview(data), 0
        while taken < len(data) and not self.finished:
            taken += await self._read(view[taken:])
            if self._reader.item is not None:
                await self._take_in(self._reader.item)
                self._reader.proceed()
        return taken

    def end(self) -> None:
        """Say that no more will come.

        Raises:
            ExportError: The stream is not complete.
        """
        self._reader.end()

    async def abandon(self) -> None:
        """Drop an item that is not complete."""
        if self._tree is not None:
            tree, self._tree = self._tree, None
            await self._services.writer.abandon(tree)

    def _begin(self) -> Tree:
        self._tree = self._services.writer.begin_import()
        return self._tree

    async def _read(self, data: memoryview) -> int:
        if len(data) <= _SMALL:
            return self._reader.feed(data)
        return await trio.to_thread.run_sync(partial(self._reader.feed, data))

    async def _take_in(self, item: ReadItem) -> None:
        tree, self._tree = self._tree, None
        assert tree is not None
        try:
            await self._check_signature(item)
            writer = self._services.writer
            await writer.commit_import(self._session.roots, tree, item.trailer)
        finally:
            await self._services.writer.abandon(tree)
        self.paths.append(item.trailer.path)

    async def _check_signature(self, item: ReadItem) -> None:
        if item.signature is None:
            raise SignatureError(
                f"imported archive of `{item.trailer.path}' lacks a signature", reason="unsigned"
            )
        if await self._services.authenticator.verify(item.signature) != item.digest:
            raise SignatureError(
                "signed hash doesn't match actual contents of imported archive; archive could be"
                " corrupt, or someone is trying to import a Trojan horse"
            )
