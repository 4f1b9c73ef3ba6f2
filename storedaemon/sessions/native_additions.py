# SPDX-License-Identifier: GPL-3.0-or-later
"""The methods that add items: bodies go to disk in a thread, a window at a time."""

from collections.abc import Mapping
from enum import Enum

import trio

from store.additions import Addition, Body
from store.errors import NarError
from store.hashes import HashAlgorithm
from store.paths import MAX_NAME_LENGTH as MAX_NAME
from storedaemon.operations import additions, descriptions
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
    name = params.text("name", limit=MAX_NAME)
    references = params.texts("references", [])
    text = params.content("text") if params.has("text") else await _whole_body(call)
    path = await additions.add_text(call.services, call.session, name, text, references)
    return {"path": path}


async def add(call: Call) -> Result:
    """Add a file or a tree that is named after its hash."""
    params = call.params
    name = params.text("name", limit=MAX_NAME)
    recursive = params.choice("method", _METHODS, "recursive") is _Method.RECURSIVE
    receiving = additions.receiving(
        call.services,
        call.session,
        params.text("algorithm", HashAlgorithm.SHA256, limit=MAX_NAME),
        recursive=recursive,
        body=Body.NAR if recursive else Body.PLAIN,
        size=None if recursive else params.optional_number("size"),
    )
    async with receiving as addition:
        while pieces := await call.next_of_body():
            await trio.to_thread.run_sync(_feed, addition, pieces)
        return {"path": await additions.commit(call.services, call.session, addition, name)}


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
    while pieces := await call.next_of_body(keep=True):
        for piece in pieces:
            text += piece
        if len(text) > MAX_TEXT:
            raise RequestError("too-large", f"a text of more than {MAX_TEXT} bytes")
    return bytes(text)
