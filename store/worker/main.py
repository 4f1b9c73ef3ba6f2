# SPDX-License-Identifier: GPL-3.0-or-later
"""A store worker's loop: one request at a time, each answered once.

It opens nothing by a path that it was told: names are single components of
directories that came as descriptors.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import prctl

from locker.channel import Channel, close_all
from locker.errors import ChannelClosedError
from locker.start import adopt_channel
from store.errors import StoreError
from store.files import delete_tree
from store.hashes import HashAlgorithm
from store.links import open_links
from store.nar.hash import nar_hash_of
from store.sealing import ContentMismatchError, Places, Sealing
from store.worker.messages import (
    CODEC,
    Deleted,
    DeleteTree,
    HashedPath,
    HashMismatch,
    HashPath,
    Refused,
    Reply,
    Request,
    SealedOutputs,
    SealOutputs,
)


def main() -> None:
    """Serve until the daemon closes the channel."""
    with adopt_channel(CODEC, "store-worker") as channel:
        os.umask(0o022)
        prctl.set_no_new_privs(True)
        try:
            while True:
                _serve_one(channel)
        except ChannelClosedError:
            return


def _serve_one(channel: Channel) -> None:
    request, fds = channel.receive()
    try:
        reply = _answer(request, fds)
    finally:
        close_all(fds)
    channel.send(reply)


def _answer(request: Request, fds: Sequence[int]) -> Reply:
    try:
        return _do(request, fds)
    except ContentMismatchError as error:
        fixed = error.fixed
        return HashMismatch(error.path, fixed.algorithm, fixed.digest, error.actual)
    except StoreError as error:
        return Refused(error.reason, error.message)
    except OSError as error:
        return Refused("system", str(error))


def _do(request: Request, fds: Sequence[int]) -> Reply:
    match request:
        case SealOutputs():
            left, private, store = fds
            return _seal(request, left, private, store)
        case DeleteTree(name=name):
            return Deleted(delete_tree(fds[0], name))
        case HashPath(name=name, algorithm=algorithm):
            digest, size = nar_hash_of(fds[0], name, HashAlgorithm.parse(algorithm))
            return HashedPath(digest.value, size)


def _seal(request: SealOutputs, left: int, private: int, store: int) -> SealedOutputs:
    with _links(store, wanted=request.deduplicate) as links:
        places = Places(left, private, links)
        sealing = Sealing(request.subject, places, request.owner, request.candidates)
        return SealedOutputs(tuple(map(sealing.seal, request.outputs)))


@contextmanager
def _links(store: int, *, wanted: bool) -> Iterator[int | None]:
    if not wanted:
        yield None
        return
    fd = open_links(store)
    try:
        yield fd
    finally:
        os.close(fd)
