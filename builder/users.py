# SPDX-License-Identifier: GPL-3.0-or-later
"""The users that builders run as: one build at a time has each.

They are the members of a group. Whoever uses one holds an exclusive lock on
``userpool/UID`` under the state directory, as the C++ daemon does, so that both
daemons can share a group. Daemons with other state directories do not see that lock,
and ending a user's processes would end their builds; so there is a second one in a
place that all daemons of the machine have in common. A user that was taken stays ours
until no build has run for a while: then nobody else can have started processes under
it since, and nothing needs to be killed before each build.
"""

import grp
import os
import pwd
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from typing import NamedTuple

import structlog
import trio

from builder.brackets import AsyncBracket
from builder.errors import BuildError
from builder.events import FailureKind
from store.filelocks import LockMode, open_lock_file, try_lock

log = structlog.get_logger("builder")

MACHINE_POOL = "/run/storedaemon/userpool"
"""Where lock files lie that all daemons of a machine see."""


def machine_pool() -> tuple[str, ...]:
    """Return the place of the machine's lock files; nothing where it cannot be made.

    A daemon in a container of its own, with a read-only /run, has no other beside it.
    """
    try:
        os.makedirs(MACHINE_POOL, mode=0o700, exist_ok=True)
    except OSError as error:
        log.warning("build_users_locked_in_state_only", error=str(error))
        return ()
    return (MACHINE_POOL,)


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
        lock_directories: Where each user has a lock file; made when they are absent.
        kill_processes: Ends every process of a user; awaited before the first
            build that runs as it.
    """

    def __init__(
        self,
        group: str,
        lock_directories: Sequence[str],
        kill_processes: Callable[[BuildUser], Awaitable[None]],
    ) -> None:
        self._group = group
        self._lock_directories = lock_directories
        self._kill_processes = kill_processes
        self._idle: dict[BuildUser, ExitStack] = {}
        self._busy: dict[BuildUser, ExitStack] = {}
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
        while True:
            if self._idle:
                user, self._busy[user] = self._idle.popitem()
                return user
            if (claimed := self._claim()) is not None:
                await self._empty(claimed)
                return claimed
            if not self._busy:
                raise BuildError(
                    "all build users are currently in use; consider creating additional "
                    f"users and adding them to the `{self._group}' group",
                    FailureKind.TRANSIENT,
                )
            waiting(len(self._busy))
            await self._returned.park()

    def _take_back(self, user: BuildUser) -> None:
        self._idle[user] = self._busy.pop(user)
        self._returned.unpark()

    def release_idle(self) -> None:
        """Let other daemons have the users that no build of ours runs as."""
        while self._idle:
            _, locks = self._idle.popitem()
            locks.close()

    def _claim(self) -> BuildUser | None:
        for directory in self._lock_directories:
            try:
                os.makedirs(directory, mode=0o700, exist_ok=True)
            except OSError as error:
                raise BuildError(
                    f"cannot make `{directory}' for locks of build users: {error.strerror}"
                ) from error
        for user in members(self._group):
            if user not in self._busy and (locks := self._lock(user)) is not None:
                self._busy[user] = locks
                return user
        return None

    def _lock(self, user: BuildUser) -> ExitStack | None:
        with ExitStack() as locks:
            for directory in self._lock_directories:
                lock = open_lock_file(f"{directory}/{user.uid}")
                locks.callback(os.close, lock)
                if not try_lock(lock, LockMode.EXCLUSIVE):
                    return None
            return locks.pop_all()

    async def _empty(self, user: BuildUser) -> None:
        try:
            await self._kill_processes(user)
        except BaseException:
            self._busy.pop(user).close()
            self._returned.unpark()
            raise
