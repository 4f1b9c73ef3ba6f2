# SPDX-License-Identifier: GPL-3.0-or-later
"""The locker's locks: who holds what, who waits, and who is next.

A file that the locker itself has locked for another token is waited for in memory, first come,
first served, and costs nothing. A file that another process has locked is waited for by one
thread. A request that must wait for one file holds those before it, and has not touched those
after it.

Everything happens under one mutex, held by the main loop while it handles a message and by a
waiting thread while it delivers its grant. So the main loop can block in its one system call.

Entry point: `LockTable`, driven by `locker.main`.
"""

import dataclasses
import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from locker.filelock import (
    LockWait,
    is_stale,
    mark_stale,
    try_lock,
    unlock,
)
from locker.messages import (
    AcquireLocks,
    AcquireLocksReply,
    GetStatisticsReply,
    Outcome,
    ReleaseLocks,
)

_Key = tuple[int, int]


class ProtocolError(Exception):
    """The daemon sent what it must not send; the locker cannot go on."""


class _File:
    """A file that somebody waits for, by device and inode."""

    __slots__ = ("key", "queue", "wait")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.queue: deque[_Request] = deque()
        self.wait: LockWait | None = None


@dataclasses.dataclass(slots=True, eq=False)
class _Request:
    """An `AcquireLocks` that is being served; `fds[:granted]` are locked."""

    message: AcquireLocks
    fds: tuple[int, ...]
    granted: int = 0
    waits_for: _File | None = None


class LockTable:
    """All locks of one locker.

    Which tokens lock the same file matters only when somebody waits. So a free file is locked
    without a look at its inode, and the index of holders is made up for when the first waiter
    comes. Invariant: while `_contended` has files, every held token is in the index.

    Args:
        reply: Sends a message to the daemon.
    """

    def __init__(self, reply: Callable[[AcquireLocksReply], None]) -> None:
        self._reply = reply
        self._mutex = threading.Lock()
        self._held: dict[int, tuple[int, bool]] = {}  # token: descriptor, shared
        self._keys: dict[int, _Key] = {}  # the index, by token
        self._holders: dict[_Key, set[int]] = {}  # the index, by file
        self._contended: dict[_Key, _File] = {}
        self._waiting: dict[int, _Request] = {}
        self._freed: deque[_File] = deque()
        self._next_token = 0
        self._blocked = 0

    def statistics(self) -> GetStatisticsReply:
        """Give the counts that the daemon may ask for."""
        with self._mutex:
            return GetStatisticsReply(
                len(self._held), len(self._contended), len(self._waiting), self._blocked
            )

    def acquire(self, message: AcquireLocks, fds: tuple[int, ...]) -> None:
        """Serve a request; the descriptors are the table's from here on.

        Raises:
            ProtocolError: No files, or a token that is not new.
        """
        if not fds:
            raise ProtocolError("AcquireLocks without files")
        with self._mutex:
            if message.first < self._next_token:
                raise ProtocolError(f"token {message.first} was used before")
            self._next_token = message.first + len(fds)
            self._proceed(_Request(message, fds))
            self._settle()

    def refuse(self, message: AcquireLocks, number: int) -> None:
        """Answer a request whose descriptors did not arrive."""
        with self._mutex:
            self._reply(AcquireLocksReply(message.first, 0, Outcome.REFUSED, number))

    def release(self, message: ReleaseLocks) -> None:
        """Unlock files, or abandon the request that waits for them."""
        with self._mutex:
            request = self._waiting.get(message.first)
            if request is not None:
                self._abandon(request)
            for token in range(message.first, message.first + message.count):
                self._drop(token, deleted=message.deleted)
            self._settle()

    def _proceed(self, request: _Request) -> None:
        """Lock the files of a request, up to one that must be waited for."""
        fds = request.fds
        try:
            while request.granted < len(fds):
                if not self._lock_next(request, fds[request.granted]):
                    return
        except OSError as error:
            self._finish(request, Outcome.REFUSED, error.errno or errno.EIO)
        else:
            self._finish(request, Outcome.GRANTED)

    def _lock_next(self, request: _Request, fd: int) -> bool:
        """Lock the next file of a request; if that cannot be now, queue or finish it."""
        if not try_lock(fd, shared=request.message.shared):
            self._contend(request, _key_of(fd))
            return False
        if self._contended and (key := _key_of(fd)) in self._contended:
            # A shared lock next to shared ones; but others have waited for longer.
            unlock(fd)
            self._contend(request, key)
            return False
        return self._grant(request, fd)

    def _grant(self, request: _Request, fd: int) -> bool:
        """Record the lock just taken, or finish the request if it is one on a deleted file."""
        message = request.message
        if message.lock_files and is_stale(fd):
            unlock(fd)
            self._finish(request, Outcome.STALE)
            return False
        token = message.first + request.granted
        self._held[token] = (fd, message.shared)
        request.granted += 1
        if self._contended:
            self._index(token, fd)
        return True

    def _index(self, token: int, fd: int) -> None:
        key = self._keys[token] = _key_of(fd)
        self._holders.setdefault(key, set()).add(token)

    def _complete_index(self) -> None:
        for token in self._held.keys() - self._keys.keys():
            self._index(token, self._held[token][0])

    def _contend(self, request: _Request, key: _Key) -> None:
        """Queue a request for a file that others have locked or wait for."""
        if not request.message.wait:
            self._undo(request)
            self._finish(request, Outcome.CONTENDED)
            return
        if not self._contended:
            self._complete_index()
        if self._waits_for_itself(request, key):
            self._finish(request, Outcome.REFUSED, errno.EDEADLK)
            return
        file = self._contended.setdefault(key, _File(key))
        file.queue.append(request)
        request.waits_for = file
        self._waiting[request.message.first] = request
        self._freed.append(file)

    def _waits_for_itself(self, request: _Request, key: _Key) -> bool:
        first = request.message.first
        return any(self._keys.get(first + i) == key for i in range(request.granted))

    def _finish(self, request: _Request, outcome: Outcome, number: int = 0) -> None:
        """Close what the request has not locked, and answer it."""
        for fd in request.fds[request.granted :]:
            os.close(fd)
        self._reply(AcquireLocksReply(request.message.first, request.granted, outcome, number))

    def _undo(self, request: _Request) -> None:
        """Unlock what a request has locked so far."""
        first, granted = request.message.first, request.granted
        for token in range(first, first + granted):
            self._drop(token, deleted=False)
        request.fds = request.fds[granted:]
        request.granted = 0

    def _abandon(self, request: _Request) -> None:
        """End a request that waits."""
        file = request.waits_for
        assert file is not None
        if file.queue[0] is request and file.wait is not None:
            # The thread still uses the descriptor; it closes it when it has ended.
            file.wait.cancel()
            file.wait = None
            request.fds = request.fds[: request.granted] + request.fds[request.granted + 1 :]
        self._leave_queue(request, file)
        self._undo(request)
        self._finish(request, Outcome.ABANDONED)

    def _leave_queue(self, request: _Request, file: _File) -> None:
        file.queue.remove(request)
        request.waits_for = None
        del self._waiting[request.message.first]
        if file.queue:
            self._freed.append(file)
        else:
            del self._contended[file.key]

    def _drop(self, token: int, *, deleted: bool) -> None:
        """Unlock the file of a token, if it has one."""
        held = self._held.pop(token, None)
        if held is None:
            return
        fd = held[0]
        if deleted:
            _mark(fd)
        unlock(fd)
        os.close(fd)
        key = self._keys.pop(token, None)
        if key is not None:
            self._forget_holder(token, key)

    def _forget_holder(self, token: int, key: _Key) -> None:
        holders = self._holders[key]
        holders.remove(token)
        if not holders:
            del self._holders[key]
        if key in self._contended:
            self._freed.append(self._contended[key])

    def _settle(self) -> None:
        """Serve those who wait for files that were freed."""
        while self._freed:
            file = self._freed.popleft()
            while file.queue and file.wait is None and self._advance(file):
                pass

    def _advance(self, file: _File) -> bool:
        """Serve the first in a queue, or wait for the process that has the file."""
        request = file.queue[0]
        if self._conflicts(file.key, shared=request.message.shared):
            return False
        fd = request.fds[request.granted]
        try:
            if not try_lock(fd, shared=request.message.shared):
                return self._wait(file, fd, shared=request.message.shared)
        except OSError as error:
            self._refuse_first(file, error.errno or errno.EIO)
        else:
            self._serve_first(file)
        return True

    def _conflicts(self, key: _Key, *, shared: bool) -> bool:
        """Tell whether a lock of ours stands in the way; all locks on a file are of one kind."""
        for holder in self._holders.get(key, ()):
            return not shared or not self._held[holder][1]
        return False

    def _wait(self, file: _File, fd: int, *, shared: bool) -> bool:
        """Have a thread wait for the first in a queue; True if that request had to be refused."""
        wait = LockWait(fd, shared=shared, done=partial(self._wait_ended, file))
        try:
            wait.start()
        except RuntimeError:
            self._refuse_first(file, errno.EAGAIN)
            return True
        file.wait = wait
        self._blocked += 1
        return False

    def _wait_ended(self, file: _File, wait: LockWait, number: int) -> None:
        """Deliver what a thread waited for; runs in that thread."""
        with self._mutex:
            wait.ended = True
            self._blocked -= 1
            if wait.cancelled:
                unlock(wait.fd)
                os.close(wait.fd)
                return
            file.wait = None
            if number:
                self._refuse_first(file, number)
            else:
                self._serve_first(file)
            self._settle()

    def _refuse_first(self, file: _File, number: int) -> None:
        request = file.queue[0]
        self._leave_queue(request, file)
        self._finish(request, Outcome.REFUSED, number)

    def _serve_first(self, file: _File) -> None:
        """Give the first in a queue the lock just taken for it."""
        request = file.queue[0]
        self._leave_queue(request, file)
        if self._grant(request, request.fds[request.granted]):
            self._proceed(request)


def _key_of(fd: int) -> _Key:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _mark(fd: int) -> None:
    try:
        mark_stale(fd)
    except OSError:
        # EINVAL: the daemon opened the file for reading only, so it is no lock file of its own.
        return
