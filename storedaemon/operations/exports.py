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
from store.info import PathInfo
from store.paths import StorePath
from store.signatures.keyring import SECRET_KEY
from storedaemon.operations.paths import entry
from storedaemon.operations.queries import query_closure
from storedaemon.services import Services
from storedaemon.session import Session

Send = Callable[[bytes], Awaitable[None]]

_OTHERS = 0o077


async def export_item(
    services: Services, _session: Session, path: str, send: Send, *, sign: bool
) -> None:
    """Send one item: its archive, what is known of it, and a signature or none.

    Args:
        services: The daemon's.
        path: The item.
        send: Takes the pieces in order.
        sign: Whether this machine's key vouches for it.

    Raises:
        InvalidPathError: The path is not in the store.
        NotValidError: There is no such item.
        StoreError: It is damaged (reason ``damaged``), or cannot be signed.
    """
    item = StorePath(entry(services.directory, path))
    if not services.database.is_valid(item):
        raise NotValidError(f"path `{item}' is not valid")
    # Not the session's own roots: what was only read may be deleted afterwards.
    with services.temp_roots.session() as roots:
        await roots.add(item)
        await _export(services, services.database.path_info(item), send, sign=sign)


async def _export(services: Services, info: PathInfo, send: Send, *, sign: bool) -> None:
    key_file = f"{services.layout.configuration}/{SECRET_KEY}"
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
        session: The client's.
        paths: The items.
        send: Takes the pieces in order.
        closure: Whether to send all that they refer to as well.
        sign: Whether this machine's key vouches for them.

    Raises:
        StoreError: As `export_item`; what was sent until then has no end.
    """
    with services.temp_roots.session() as roots:
        reached = await query_closure(services, session, paths)
        # Before anything else is asked: from here on a collector leaves them alone.
        await roots.add(*reached)
        ordered = topological_order(await _references_among(services, reached))
        wanted = set(paths)
        exported = [path for path in ordered if closure or path in wanted]
        for item in exported:
            await send(NEXT)
            await export_item(services, session, item, send, sign=sign)
        await send(END)
    return exported


async def _references_among(
    services: Services, items: Sequence[StorePath]
) -> dict[StorePath, list[StorePath]]:
    references: dict[StorePath, list[StorePath]] = {path: [] for path in items}
    for path, referrers in (await services.database.referrers_among(items)).items():
        for referrer in referrers:
            references[referrer].append(path)
    return references


def _check_secrecy(file: str) -> None:
    try:
        status = os.stat(file)
    except OSError as error:
        raise FileError(
            f"getting status of `{file}': {error.strerror}; "
            "`storedaemon generate-key' makes a key, or `guix archive --generate-key'",
            reason="no-key",
        ) from error
    if status.st_mode & _OTHERS:
        raise StoreError(
            f"file `{file}' should be secret (inaccessible to everybody else)!", reason="no-key"
        )
