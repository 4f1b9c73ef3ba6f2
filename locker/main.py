# SPDX-License-Identifier: GPL-3.0-or-later
"""The locker process: it holds the daemon's file locks.

It gets files as descriptors and never opens one. It ends when the channel does, and with it go
all locks, so that a daemon which is killed leaves none behind. A message that the table below
does not list, or that contradicts an earlier one, ends it too: the daemon never sends such.

Entry point: `main`, run by `python -m locker`, which `locker.start.start_helper` does.
"""

import errno
import sys
from collections.abc import Callable, Mapping
from typing import Any

from locker.channel import Channel
from locker.errors import ChannelClosedError, LostDescriptorsError, MessageError
from locker.filelock import install_wake_handler
from locker.harden import drop_privileges, forbid_paths, raise_descriptor_limit
from locker.messages import CODEC, AcquireLocks, AcquireLocksReply, GetStatistics, ReleaseLocks
from locker.start import adopt_channel
from locker.table import LockTable, ProtocolError

_Handler = Callable[[LockTable, Channel, Any, tuple[int, ...]], None]


def _acquire(
    table: LockTable, _channel: Channel, message: AcquireLocks, fds: tuple[int, ...]
) -> None:
    table.acquire(message, fds)


def _release(
    table: LockTable, _channel: Channel, message: ReleaseLocks, _fds: tuple[int, ...]
) -> None:
    table.release(message)


def _get_statistics(
    table: LockTable, channel: Channel, _message: GetStatistics, _fds: tuple[int, ...]
) -> None:
    channel.send(table.statistics())


HANDLERS: Mapping[type, _Handler] = {
    AcquireLocks: _acquire,
    ReleaseLocks: _release,
    GetStatistics: _get_statistics,
}
"""The messages that the locker accepts."""


def main() -> int:
    """Be a locker until the daemon closes the channel; give the exit code."""
    channel = adopt_channel(CODEC, "locker")
    install_wake_handler()
    raise_descriptor_limit()
    drop_privileges()
    forbid_paths()
    return serve(channel)


def serve(channel: Channel) -> int:
    """Handle messages until the channel closes (0), or one is wrong (1)."""

    def reply(message: AcquireLocksReply) -> None:
        try:
            channel.send(message)
        except ChannelClosedError:
            # A waiting thread may notice before the main loop, which ends the process.
            return

    table = LockTable(reply)
    try:
        while True:
            _serve_one(table, channel)
    except ChannelClosedError:
        return 0
    except (MessageError, ProtocolError) as error:
        sys.stderr.write(f"locker: from the daemon: {error}\n")
        return 1


def _serve_one(table: LockTable, channel: Channel) -> None:
    try:
        message, fds = channel.receive()
    except LostDescriptorsError as error:
        if not isinstance(error.content, AcquireLocks):
            raise
        table.refuse(error.content, errno.EMFILE)
        return
    handler = HANDLERS.get(type(message))
    if handler is None:
        raise ProtocolError(f"unexpected {type(message).__name__}")
    handler(table, channel, message, fds)
