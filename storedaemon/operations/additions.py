# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding items that clients send.

A dialect receives a body and feeds it to an addition, on whichever thread; what
an addition is, and where its bytes go, is `store.additions`' business.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from store import turns
from store.additions import Addition, Body
from store.hashes import HashAlgorithm
from store.paths import StoreDirectory, StorePath, check_name
from storedaemon.services import Services
from storedaemon.session import Session


async def add_text(
    services: Services, session: Session, name: str, text: bytes, references: Sequence[str]
) -> StorePath:
    """Add a text with the items it refers to, and keep it until the session ends.

    Raises:
        InvalidPathError: No item may have the name, or a reference is no store path.
        NotValidError: A reference is not registered.
        DerivationError: It is called a derivation, and is none or a false one.
    """
    parse = partial(_parse, services.directory, references)
    items = await turns.run(parse, much=len(references) > turns.PORTION)
    return await services.writer.add_text(session.roots, name, text, items)


def _parse(directory: StoreDirectory, references: Sequence[str]) -> list[StorePath]:
    return list(map(directory.parse, references))


@asynccontextmanager
async def receiving(
    services: Services,
    _session: Session,
    algorithm: str,
    *,
    recursive: bool,
    body: Body = Body.NAR,
    size: int | None = None,
) -> AsyncIterator[Addition]:
    """Receive an item that is named after its hash; what is not committed leaves nothing.

    Args:
        services: The daemon's.
        algorithm: The name of the hash's algorithm.
        recursive: Whether the archive is hashed, or the bytes of a single file.
        body: The form in which it comes.
        size: Bytes of a plain body, if known.

    Raises:
        InvalidHashError: There is no such algorithm.
    """
    addition = services.writer.begin_addition(
        HashAlgorithm.parse(algorithm), recursive=recursive, body=body, size=size
    )
    try:
        yield addition
    finally:
        await services.writer.abandon(addition)


async def commit(services: Services, session: Session, addition: Addition, name: str) -> StorePath:
    """Make an item of what was received, and keep it until the session ends.

    Raises:
        InvalidPathError: No item may have the name.
        NarError: The body has not ended, or is not what it must be.
        DerivationError: It is called a derivation, and is none or a false one.
    """
    check_name(name)
    return await services.writer.commit(session.roots, addition, name)
