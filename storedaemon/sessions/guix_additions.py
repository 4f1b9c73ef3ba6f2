# SPDX-License-Identifier: GPL-3.0-or-later
"""AddToStore: the archive that follows the request, from the socket to the store.

Whatever is wrong with the request, its archive is read to the end, so that the
next request is found behind it; only an archive that is itself malformed, or
that cannot be stored, ends the connection. Entry point: `add_to_store`.
"""

import socket

from store.errors import StoreError
from store.nar.reader import NarReader
from storedaemon.operations import additions
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.bodies import Consumer, receive_body
from storedaemon.wire import messages as m
from storedaemon.wire.errors import RemoteError
from storedaemon.wire.session import GuixSession


class _Outlined:
    """An archive whose end is found although its consumer may refuse it before that.

    Args:
        consumer: Digests the archive; None to skip it.
    """

    def __init__(self, consumer: Consumer | None = None) -> None:
        self._consumer = consumer
        self._outline = NarReader()
        self._refusal: StoreError | None = None

    @property
    def finished(self) -> bool:
        """Whether the archive has ended."""
        return self._outline.finished

    def feed(self, data: memoryview) -> int:
        """Take some more bytes; give how many belong to the archive."""
        self._outline.feed(data)
        taken = len(data) - self._outline.excess
        if self._consumer is not None and self._refusal is None:
            try:
                self._consumer.feed(data[:taken])
            except StoreError as error:
                self._refusal = error
        return taken

    def check(self) -> None:
        """Raise what the consumer raised."""
        if self._refusal is not None:
            raise self._refusal


async def add_to_store(
    sock: socket.socket,
    wire: GuixSession,
    services: Services,
    session: Session,
    request: m.AddToStore,
) -> m.TextReply:
    """Add what an archive holds; give the item's path.

    Raises:
        StoreError: It cannot be added; the archive was read to its end.
        OSError: The same, for reasons of the system.
        RemoteError: The archive is malformed, or could not be stored as it came.
        ClientGoneError: The connection ended within the archive.
    """
    recursive, algorithm = (True, "sha256")
    if request.fixed:
        recursive, algorithm = request.recursive, request.algorithm
    begun = False
    try:
        async with additions.receiving(
            services, session, algorithm, recursive=recursive
        ) as addition:
            begun = True
            # A flat addition refuses a tree as soon as it sees one.
            outlined = None if recursive else _Outlined(addition)
            await _receive(sock, wire, outlined or addition)
            if outlined is not None:
                outlined.check()
            return m.TextReply(await additions.commit(services, session, addition, request.name))
    except (StoreError, OSError):
        if not begun:
            await _receive(sock, wire, _Outlined())
        raise


async def _receive(sock: socket.socket, wire: GuixSession, body: Consumer) -> None:
    try:
        rest = await receive_body(sock, wire.begin_body(), body)
    except (StoreError, OSError) as error:
        wire.end_body(b"")
        reason = error.reason if isinstance(error, StoreError) else "system"
        raise RemoteError(str(error), reason=reason) from error
    wire.end_body(rest)
