# SPDX-License-Identifier: GPL-3.0-or-later
"""ExportPath and ImportPaths: streams within the answer to a request.

The daemon sends an export in strings behind WRITE, and asks for each piece of
an import with READ, so both ends know where they are whatever goes wrong. Entry
points: `export_path`, `import_paths`.
"""

import socket

from builder.events import Level, Message
from store.exports import ExportError
from storedaemon.operations.exports import export_item
from storedaemon.operations.imports import importing
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.sessions.guix_operations import Tell
from storedaemon.sessions.sockets import ClientGoneError, receive, send
from storedaemon.wire import messages as m
from storedaemon.wire.errors import RemoteError
from storedaemon.wire.session import GuixSession

FIRST_PIECE = 32 * 1024
"""What the reference always asks for, which is enough for most items."""

PIECE = 256 * 1024
"""What is asked for when there is more, which saves most of the round trips."""


async def export_path(
    sock: socket.socket,
    wire: GuixSession,
    services: Services,
    session: Session,
    request: m.ExportPath,
    tell: Tell,
) -> m.Reply:
    """Send an item.

    Raises:
        StoreError: It cannot be exported; the client may have got a part of it.
        ClientGoneError: The client no longer takes it.
    """

    async def send_piece(piece: bytes) -> None:
        await send(sock, wire.send_chunk(piece))

    await tell(Message(f"exporting path `{request.path}'", Level.INFO))
    await export_item(services, session, request.path, send_piece, sign=request.sign)
    return m.Done()


async def import_paths(
    sock: socket.socket, wire: GuixSession, services: Services, session: Session
) -> m.Reply:
    """Ask for a stream of items, and register them.

    Raises:
        StoreError: One of them cannot be imported; those before it are.
        RemoteError: The client sent another piece than it was asked for.
        ClientGoneError: The connection ended within the stream.
    """
    size = FIRST_PIECE
    async with importing(services, session) as work:
        while not work.finished:
            piece = await _pull(sock, wire, size)
            if not piece:
                raise ExportError("unexpected end-of-file")
            await work.feed(piece)
            size = PIECE
    return m.TextsReply(tuple(work.paths))


async def _pull(sock: socket.socket, wire: GuixSession, size: int) -> bytes:
    await send(sock, wire.pull(size))
    try:
        while (piece := wire.next_chunk(size)) is None:
            data = await receive(sock)
            if not data:
                raise ClientGoneError("the connection ended within an import")
            wire.receive_data(data)
    except RemoteError:
        wire.end_body(b"")
        raise
    return piece
