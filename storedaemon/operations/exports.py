# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending items of the store away, with what another store needs to take them in.

An item is kept from collectors while it is read, and one that is no longer what
it was when it was registered goes nowhere.
"""

import os
from collections.abc import Awaitable, Callable, Sequence

import trio

from store.database.order import topological_order
from store.errors import FileError, NotValidError, StoreError
from store.exports import END, NEXT, ItemDump, encode_signature
from store.paths import StorePath
from store.signatures.keyring import SECRET_KEY
from storedaemon.operations.paths import entry
from storedaemon.operations.queries import query_closure
from storedaemon.services import Services
from storedaemon.session import Session

Send = Callable[[bytes], Awaitable[None]]

_OTHERS = 0o077


async def export_item(
    services: Services, session: Session, path: str, send: Send, *, sign: bool
) -> None:
    """Send one item: its archive, what is known of it, and a signature or none.

    Args:
        services: The daemon's.
        session: The client's, which keeps the item until it ends.
        path: The item.
        send: Takes the pieces in order.
        sign: Whether this machine's key vouches for it.

    Raises:
        InvalidPathError: The path is not in the store.
        NotValidError: There is no such item.
        StoreError: It is damaged (reason ``damaged``), or cannot be signed.
    """
    item = StorePath(entry(services.directory, path))
    key_file = f"{services.layout.configuration}/{SECRET_KEY}"
    if not services.database.is_valid(item):
        raise NotValidError(f"path `{item}' is not valid")
    await session.roots.add(item)
    info = services.database.path_info(item)
    if sign:
        _check_secrecy(key_file)
    dump = ItemDump(services.writer.store_fd, info)
    try:
        while (chunk := await trio.to_thread.run_sync(dump.next_chunk)) is not None:
            await send(chunk)
        rest, digest = dump.finish()
    finally:
        dump.close()
    signature = await services.authenticator.sign(key_file, digest) if sign else None
    await send(rest + encode_signature(signature))


async def export_items(
    services: Services,
    session: Session,
    paths: Sequence[str],
    send: Send,
    *,
    closure: bool,
    sign: bool,
) -> list[StorePath]:
    """Send items, each after those it refers to; give them in this order.

    Args:
        services: The daemon's.
        session: The client's, which keeps the items until it ends.
        paths: The items.
        send: Takes the pieces in order.
        closure: Whether to send all that they refer to as well.
        sign: Whether this machine's key vouches for them.

    Raises:
        StoreError: As `export_item`; what was sent until then has no end.
    """
    ordered = await _ordered(services, session, paths, closure=closure)
    for item in ordered:
        await send(NEXT)
        await export_item(services, session, item, send, sign=sign)
    await send(END)
    return ordered


async def _ordered(
    services: Services, session: Session, paths: Sequence[str], *, closure: bool
) -> list[StorePath]:
    reached = await query_closure(services, session, paths)
    # Before anything else is asked: from here on a collector leaves them alone.
    await session.roots.add(*reached)
    referrers = await services.database.referrers_among(reached)
    references: dict[StorePath, list[StorePath]] = {path: [] for path in reached}
    for path, users in referrers.items():
        for user in users:
            references[user].append(path)
    wanted = set(paths)
    return [path for path in topological_order(references) if closure or path in wanted]


def _check_secrecy(file: str) -> None:
    try:
        status = os.stat(file)
    except OSError as error:
        raise FileError(f"getting status of `{file}': {error.strerror}", reason="no-key") from error
    if status.st_mode & _OTHERS:
        raise StoreError(
            f"file `{file}' should be secret (inaccessible to everybody else)!", reason="no-key"
        )
