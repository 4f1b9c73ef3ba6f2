# SPDX-License-Identifier: GPL-3.0-or-later
"""A store worker: fulfils one request at a time until the daemon closes the channel.

It gets directories as descriptors and reaches nothing else by name, keeps the
capabilities that work on other users' files need, and can gain none. What a
builder left makes a request fail; only a message that the daemon never sends
ends the worker.

Entry point: `main`, run by `python -m store.worker`, which `start_helper` does.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import prctl

from locker.channel import Channel
from locker.errors import ChannelClosedError, LostDescriptorsError, MessageError
from locker.start import adopt_channel
from store.errors import StoreError
from store.files import delete_entry, delete_tree
from store.hashes import HashAlgorithm, new_hasher
from store.links import sweep_unused
from store.nar.dump import dump
from store.sharing import KnownInodes, Shared, share_files, write_inodes
from store.worker.messages import (
    CODEC,
    DeleteEntries,
    DeleteEntriesReply,
    DeleteTree,
    DeleteTreeReply,
    HashPath,
    HashPathReply,
    IndexLinks,
    IndexLinksReply,
    SealOutputs,
    ShareFiles,
    ShareFilesReply,
    SweepLinks,
    SweepLinksReply,
)
from store.worker.sealing import failure_of, seal

_BLOCK = 1 << 18

# To read, give away, delete and link what belongs to build users.
_KEPT_CAPABILITIES = ("chown", "dac_override", "fowner")


def main() -> int:
    """Be a worker until the daemon closes the channel; give the exit code."""
    channel = adopt_channel(CODEC, "store-worker")
    os.umask(0o022)
    drop_privileges()
    return serve(channel)


def drop_privileges() -> None:
    """Keep what work on others' files needs, as far as we have it, and give up gaining more."""
    kept = [
        getattr(prctl, f"CAP_{name.upper()}")
        for name in _KEPT_CAPABILITIES
        if getattr(prctl.cap_permitted, name)
    ]
    prctl.set_no_new_privs(True)
    # Without CAP_SETPCAP the bounding set stays; no_new_privs makes it moot.
    with suppress(PermissionError):
        prctl.capbset.limit(*kept)
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit(*kept)
    prctl.cap_permitted.limit(*kept)


def serve(channel: Channel) -> int:
    """Fulfil requests until the channel closes (0), or one is none (1)."""
    try:
        while True:
            _serve_one(channel)
    except ChannelClosedError:
        return 0
    except (MessageError, LostDescriptorsError) as error:
        sys.stderr.write(f"store-worker: from the daemon: {error}\n")
        return 1


def _serve_one(channel: Channel) -> None:
    message, fds = channel.receive()
    try:
        handler = HANDLERS.get(type(message))
        if handler is None:
            raise MessageError(f"unexpected {type(message).__name__}")
        reply = handler(message, fds)
    finally:
        for fd in fds:
            os.close(fd)
    channel.send(reply)


def _delete(message: DeleteTree, fds: Sequence[int]) -> DeleteTreeReply:
    try:
        freed = delete_tree(_only(fds), message.name, kept_links=message.kept_links)
    except (StoreError, OSError) as error:
        return DeleteTreeReply(0, failure_of(error))
    return DeleteTreeReply(freed, None)


def _hash(message: HashPath, fds: Sequence[int]) -> HashPathReply:
    try:
        hasher, size = new_hasher(HashAlgorithm.parse(message.algorithm)), 0
        pieces = dump if message.recursive else _bytes_of
        for piece in pieces(_only(fds), message.name):
            hasher.update(piece)
            size += len(piece)
    except (StoreError, OSError) as error:
        return HashPathReply(b"", 0, failure_of(error))
    return HashPathReply(hasher.digest(), size, None)


def _index(_: IndexLinks, fds: Sequence[int]) -> IndexLinksReply:
    links, index = _exactly(2, fds)
    try:
        return IndexLinksReply(write_inodes(links, index), None)
    except OSError as error:
        return IndexLinksReply(0, failure_of(error))


def _share(message: ShareFiles, fds: Sequence[int]) -> ShareFilesReply:
    store, links, index = _exactly(3, fds)
    shared = Shared()
    failure = None
    try:
        with closing(KnownInodes(index)) as known:
            share_files(store, message.name, links, known, shared)
    except (StoreError, OSError) as error:
        failure = failure_of(error)
    return ShareFilesReply(shared.files, shared.size, tuple(shared.writable), failure)


def _delete_entries(message: DeleteEntries, fds: Sequence[int]) -> DeleteEntriesReply:
    directory, freed = _only(fds), 0
    failure = None
    for name in message.names:
        try:
            freed += delete_entry(directory, os.fsdecode(name)).size
        except (StoreError, OSError) as error:
            failure = failure or failure_of(error)
    return DeleteEntriesReply(freed, failure)


def _sweep(_: SweepLinks, fds: Sequence[int]) -> SweepLinksReply:
    try:
        swept = sweep_unused(_only(fds))
    except OSError as error:
        return SweepLinksReply(0, 0, 0, failure_of(error))
    return SweepLinksReply(swept.removed, swept.freed, swept.saved, None)


def _bytes_of(dirfd: int, name: str) -> Iterator[bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=dirfd), "rb", buffering=0) as file:
        while data := file.read(_BLOCK):
            yield data


def _only(fds: Sequence[int]) -> int:
    return _exactly(1, fds)[0]


def _exactly(count: int, fds: Sequence[int]) -> Sequence[int]:
    if len(fds) != count:
        raise MessageError(f"{len(fds)} descriptors, where {count} belong")
    return fds


HANDLERS: Mapping[type, Callable[[Any, Sequence[int]], object]] = {
    SealOutputs: seal,
    DeleteTree: _delete,
    HashPath: _hash,
    IndexLinks: _index,
    ShareFiles: _share,
    DeleteEntries: _delete_entries,
    SweepLinks: _sweep,
}
"""The messages that a worker accepts."""
