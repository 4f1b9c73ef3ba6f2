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
    LockFileState,
    LockWait,
    judge_lock_file,
    mark_stale,
    try_lock,
    unlock,
)
from locker.messages import (
    MAX_BATCH,
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
    """A file that is locked or waited for, by device and inode."""

    __slots__ = ("exclusive", "holders", "key", "queue", "wait")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.holders = 0
        self.exclusive = False
        self.queue: deque[_Request] | None = None
        self.wait: LockWait | None = None

    def conflicts(self, *, shared: bool) -> bool:
        """Tell whether a lock of ours stands in the way."""
        return self.holders > 0 and (self.exclusive or not shared)


@dataclasses.dataclass(slots=True, eq=False)
class _Request:
    """An `AcquireLocks` that is being served; `fds[:granted]` are locked."""

    message: AcquireLocks
    fds: tuple[int, ...]
    granted: int = 0
    waits_for: _File | None = None


class LockTable:
    """All locks of one locker.

    Args:
        reply: Sends a message to the daemon.
    """

    def __init__(self, reply: Callable[[AcquireLocksReply], None]) -> None:
        self._reply = reply
        self._mutex = threading.Lock()
        self._held: dict[int, tuple[int, _File]] = {}
        self._files: dict[_Key, _File] = {}
        self._waiting: dict[int, _Request] = {}
        self._freed: deque[_File] = deque()
        self._next_token = 0
        self._blocked = 0

    def statistics(self) -> GetStatisticsReply:
        """Give the counts that the daemon may ask for."""
        with self._mutex:
            return GetStatisticsReply(
                len(self._held), len(self._files), len(self._waiting), self._blocked
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
        """Unlock files and abandon requests.

        Raises:
            ProtocolError: A range longer than any request.
        """
        with self._mutex:
            for first, count in message.ranges:
                if not 0 < count <= MAX_BATCH:
                    raise ProtocolError(f"a range of {count} tokens")
                request = self._waiting.get(first)
                if request is not None:
                    self._abandon(request)
                for token in range(first, first + count):
                    self._drop(token, deleted=message.deleted)
            self._settle()

    def _proceed(self, request: _Request) -> None:
        """Lock the files of a request, up to one that must be waited for."""
        message, fds = request.message, request.fds
        while request.granted < len(fds):
            try:
                locked = try_lock(fds[request.granted], shared=message.shared)
                status = os.fstat(fds[request.granted])
            except OSError as error:
                self._finish(request, Outcome.REFUSED, error.errno or errno.EIO)
                return
            key = (status.st_dev, status.st_ino)
            file = self._files.get(key)
            if file is None:
                file = self._files[key] = _File(key)
            if not locked or file.queue:
                self._contend(request, file, locked=locked)
                return
            if not self._grant(request, file, status):
                return
        self._finish(request, Outcome.GRANTED)

    def _grant(self, request: _Request, file: _File, status: os.stat_result) -> bool:
        """Record the lock just taken, or finish the request if the file is not fit for it."""
        message, fd = request.message, request.fds[request.granted]
        if message.lock_files:
            state = judge_lock_file(status)
            if state is not LockFileState.FRESH:
                unlock(fd)
                self._freed.append(file)
                stale = state is LockFileState.STALE
                outcome = Outcome.STALE if stale else Outcome.REFUSED
                self._finish(request, outcome, 0 if stale else errno.EMLINK)
                return False
        token = message.first + request.granted
        self._held[token] = (fd, file)
        file.holders += 1
        file.exclusive = not message.shared
        request.granted += 1
        return True

    def _contend(self, request: _Request, file: _File, *, locked: bool) -> None:
        """Queue a request for a file that others have locked or wait for."""
        if locked:
            unlock(request.fds[request.granted])
        if not request.message.wait:
            self._freed.append(file)
            self._undo(request)
            self._finish(request, Outcome.CONTENDED)
        elif self._waits_for_itself(request, file):
            self._finish(request, Outcome.REFUSED, errno.EDEADLK)
        else:
            if file.queue is None:
                file.queue = deque()
            file.queue.append(request)
            request.waits_for = file
            self._waiting[request.message.first] = request
            self._freed.append(file)

    def _waits_for_itself(self, request: _Request, file: _File) -> bool:
        first = request.message.first
        return any(self._held[first + i][1] is file for i in range(request.granted))

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
        assert file.queue is not None
        if file.queue[0] is request and file.wait is not None:
            # The thread still uses the descriptor; it closes it when it has ended.
            file.wait.cancel()
            file.wait = None
            request.fds = request.fds[: request.granted] + request.fds[request.granted + 1 :]
        file.queue.remove(request)
        del self._waiting[request.message.first]
        self._freed.append(file)
        self._undo(request)
        self._finish(request, Outcome.ABANDONED)

    def _drop(self, token: int, *, deleted: bool) -> None:
        """Unlock the file of a token, if it has one."""
        held = self._held.pop(token, None)
        if held is None:
            return
        fd, file = held
        if deleted:
            _mark(fd)
        unlock(fd)
        os.close(fd)
        file.holders -= 1
        self._freed.append(file)

    def _settle(self) -> None:
        """Serve those who wait for files that were freed, and forget files nobody uses."""
        while self._freed:
            file = self._freed.popleft()
            if file.queue:
                self._advance(file)
            elif not file.holders:
                self._files.pop(file.key, None)

    def _advance(self, file: _File) -> None:
        """Grant a file to the first in its queue, or wait for the process that has it."""
        assert file.queue is not None
        request = file.queue[0]
        if file.wait is not None or file.conflicts(shared=request.message.shared):
            return
        fd = request.fds[request.granted]
        try:
            if try_lock(fd, shared=request.message.shared):
                self._serve_first(file)
            else:
                self._wait(file, request)
        except OSError as error:
            self._refuse_first(file, error.errno or errno.EIO)

    def _wait(self, file: _File, request: _Request) -> None:
        fd = request.fds[request.granted]
        wait = LockWait(fd, shared=request.message.shared, done=partial(self._wait_ended, file))
        try:
            wait.start()
        except RuntimeError:
            self._refuse_first(file, errno.EAGAIN)
            return
        file.wait = wait
        self._blocked += 1

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

    def _take_first(self, file: _File) -> _Request:
        assert file.queue is not None
        request = file.queue.popleft()
        request.waits_for = None
        del self._waiting[request.message.first]
        self._freed.append(file)
        return request

    def _refuse_first(self, file: _File, number: int) -> None:
        self._finish(self._take_first(file), Outcome.REFUSED, number)

    def _serve_first(self, file: _File) -> None:
        """Give the first in the queue the lock just taken for it."""
        request = self._take_first(file)
        if self._grant(request, file, os.fstat(request.fds[request.granted])):
            self._proceed(request)


def _mark(fd: int) -> None:
    try:
        mark_stale(fd)
    except OSError:
        # The disk may be full, or the file be open for reading only. The link count of the
        # file tells our own kind the same; others retry on a file that nobody can see.
        return
