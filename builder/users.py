# SPDX-License-Identifier: GPL-3.0-or-later
"""The users that builders run as: one build at a time has each.

They are the members of a group. Whoever uses one holds an exclusive lock on
``userpool/UID`` under the state directory, as the C++ daemon does, so that both
daemons can share a group. A user that was taken stays ours until no build has
run for a while: then nobody else can have started processes under it since, and
nothing needs to be killed before each build.
"""

import grp
import os
import pwd
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import NamedTuple

import trio

from builder.brackets import AsyncBracket
from builder.errors import BuildError
from builder.events import FailureKind
from store.filelocks import LockMode, open_lock_file, try_lock


class BuildUser(NamedTuple):
    """A user to run a builder as, with all the groups it is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def members(group: str) -> list[BuildUser]:
    """Return the users of a build-users group.

    Raises:
        BuildError: There is no such group, it is empty, it names an unknown
            user, or the daemon itself is in it.
    """
    try:
        entry = grp.getgrnam(group)
    except KeyError as error:
        raise BuildError(
            f"the group `{group}' specified in `build-users-group' does not exist"
        ) from error
    if not entry.gr_mem:
        raise BuildError(f"the build users group `{group}' has no members")
    return [_member(name, group, entry.gr_gid) for name in entry.gr_mem]


def _member(name: str, group: str, gid: int) -> BuildUser:
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise BuildError(f"the user `{name}' in the group `{group}' does not exist") from error
    if user.pw_uid in {0, os.getuid(), os.geteuid()}:
        raise BuildError(f"the build user should not be a member of `{group}'")
    return BuildUser(name, user.pw_uid, gid, tuple(os.getgrouplist(name, user.pw_gid)))


class BuildUsers:
    """The pool of build users.

    Args:
        group: The name of the build-users group.
        lock_directory: Where the lock files lie; made when it is absent.
        kill_processes: Ends every process of a user; awaited before the first
            build that runs as it.
    """

    def __init__(
        self,
        group: str,
        lock_directory: str,
        kill_processes: Callable[[BuildUser], Awaitable[None]],
    ) -> None:
        self._group = group
        self._lock_directory = lock_directory
        self._kill_processes = kill_processes
        self._idle: dict[BuildUser, int] = {}
        self._busy: dict[BuildUser, int] = {}
        self._returned = trio.lowlevel.ParkingLot()

    def borrow(self, waiting: Callable[[int], None]) -> AbstractAsyncContextManager[BuildUser]:
        """Lend a user for one build; waits while all that there are build here.

        Args:
            waiting: Called before it waits, with the number of users that build here.

        Raises:
            BuildError: The group is unusable, or others use all its users.
        """
        return AsyncBracket(partial(self._lend, waiting), self._take_back)

    async def _lend(self, waiting: Callable[[int], None]) -> BuildUser:
        user, lock = await self._take(waiting)
        self._busy[user] = lock
        return user

    def _take_back(self, user: BuildUser) -> None:
        self._idle[user] = self._busy.pop(user)
        self._returned.unpark()

    def release_idle(self) -> None:
        """Let other daemons have the users that no build of ours runs as."""
        while self._idle:
            _, lock = self._idle.popitem()
            os.close(lock)

    async def _take(self, waiting: Callable[[int], None]) -> tuple[BuildUser, int]:
        while True:
            if self._idle:
                return self._idle.popitem()
            claimed = self._claim()
            if claimed is not None:
                return await self._emptied(*claimed)
            if not self._busy:
                raise BuildError(
                    "all build users are currently in use; consider creating additional "
                    f"users and adding them to the `{self._group}' group",
                    FailureKind.TRANSIENT,
                )
            waiting(len(self._busy))
            await self._returned.park()

    def _claim(self) -> tuple[BuildUser, int] | None:
        os.makedirs(self._lock_directory, exist_ok=True)
        for user in members(self._group):
            if user not in self._busy:
                lock = open_lock_file(f"{self._lock_directory}/{user.uid}")
                if try_lock(lock, LockMode.EXCLUSIVE):
                    return user, lock
                os.close(lock)
        return None

    async def _emptied(self, user: BuildUser, lock: int) -> tuple[BuildUser, int]:
        try:
            await self._kill_processes(user)
        except BaseException:
            os.close(lock)
            raise
        return user, lock
