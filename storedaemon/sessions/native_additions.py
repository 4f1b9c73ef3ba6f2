# SPDX-License-Identifier: GPL-3.0-or-later
"""The methods that add items: bodies go to disk in a thread, a window at a time."""

from collections.abc import Mapping
from enum import Enum

import trio

from store.additions.received import Addition, Body
from store.errors import NarError
from store.hashes import HashAlgorithm
from store.paths import StorePath
from storedaemon.operations import descriptions
from storedaemon.sessions.native_call import Call, Result
from storedaemon.wire.native.connection import MAX_TEXT
from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.records import parse_description


class _Method(Enum):
    FLAT = "flat"
    RECURSIVE = "recursive"


_METHODS: Mapping[str, _Method] = {method.value: method for method in _Method}


async def add_text(call: Call) -> Result:
    """Add a text with its references."""
    params = call.params
    name = params.text("name", limit=256)
    references = _parse_all(call, params.texts("references", []))
    text = params.content("text") if params.has("text") else await _whole_body(call)
    path = await call.services.writer.add_text(call.session.roots, name, text, references)
    return {"path": path}


async def add(call: Call) -> Result:
    """Add a file or a tree that is named after its hash."""
    params = call.params
    name = params.text("name", limit=256)
    recursive = params.choice("method", _METHODS, "recursive") is _Method.RECURSIVE
    algorithm = HashAlgorithm.parse(params.text("algorithm", "sha256", limit=32))
    size = None if recursive else params.optional_number("size")
    body = Body.NAR if recursive else Body.PLAIN
    writer = call.services.writer
    addition = writer.begin_addition(algorithm, recursive=recursive, body=body, size=size)
    try:
        async for pieces in call.body():
            await trio.to_thread.run_sync(_feed, addition, pieces)
        return {"path": await writer.commit(call.session.roots, addition, name)}
    finally:
        await writer.abandon(addition)


async def add_derivation(call: Call) -> Result:
    """Add a derivation from its description."""
    description = parse_description(call.params)
    path, outputs = await descriptions.add_derivation(call.services, call.session, description)
    return {"path": path, "outputs": outputs}


def _feed(addition: Addition, pieces: list[bytes]) -> None:
    for piece in pieces:
        taken = addition.feed(memoryview(piece))
        if taken < len(piece):
            raise NarError(f"{len(piece) - taken} bytes after the end of the content")


async def _whole_body(call: Call) -> bytes:
    text = bytearray()
    async for pieces in call.body():
        for piece in pieces:
            text += piece
        if len(text) > MAX_TEXT:
            raise RequestError("too-large", f"a text of more than {MAX_TEXT} bytes")
    return bytes(text)


def _parse_all(call: Call, texts: list[str]) -> list[StorePath]:
    return [call.services.directory.parse(text) for text in texts]
