# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories in which users keep their profiles, made when a user first connects.

Their parent is made when anybody does, as in the reference: scripts look for it to see
whether a daemon has been used. Names come from the user database, never from a client.
Entry points: `UserDirectories.welcome`, `UserDirectories.ensure`.
"""

import os
from collections import OrderedDict
from contextlib import suppress

from builder.options import Client
from store.tally import CacheStatistics, Tally
from storedaemon.logs import Logger

KEEP_ENTRIES = 1024
PARENT_MODE = 0o755


class UserDirectories:
    """Makes ``per-user/NAME`` below the profiles, each name once.

    Args:
        profiles: The directory of all profiles.
        enforce: Whether an existing ``per-user`` is made one in which root alone makes
            directories.
    """

    def __init__(self, profiles: str, *, enforce: bool = False) -> None:
        self._parent = f"{profiles}/per-user"
        self._enforce = enforce
        self._prepared = False
        self._tally = Tally()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def welcome(self, client: Client, log: Logger) -> None:
        """Make the directory of a client whose user is known; go on without where that fails."""
        try:
            self._prepare()
            if client.uid is not None and client.user and not client.user.isdigit():
                self.ensure(client.user, client.uid)
        except OSError as error:
            log.warning("no profile directory", user=client.user, error=str(error))

    def ensure(self, name: str, uid: int) -> None:
        """Make a user's directory, which belongs to that user.

        Raises:
            OSError: It cannot be made.
        """
        self._tally.looked_up(found=name in self._seen)
        if name in self._seen or "/" in name or name in {"", ".", ".."}:
            return
        self._prepare()
        self._make(name, uid)
        self._seen[name] = None
        if len(self._seen) > KEEP_ENTRIES:
            self._seen.popitem(last=False)
            self._tally.evictions += 1

    def statistics(self) -> CacheStatistics:
        """Return how often a directory was known to be there."""
        return self._tally.of_entries("profile-directories", len(self._seen), KEEP_ENTRIES)

    def _prepare(self) -> None:
        if self._prepared:
            return
        with suppress(FileExistsError):
            os.mkdir(self._parent, PARENT_MODE)
        if self._enforce:
            os.chmod(self._parent, PARENT_MODE)
        self._prepared = True

    def _make(self, name: str, uid: int) -> None:
        parent = os.open(self._parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            self._give(parent, name, uid)
        except FileExistsError:
            pass  # an existing one is left as it is, as in the reference
        finally:
            os.close(parent)

    def _give(self, parent: int, name: str, uid: int) -> None:
        try:
            os.chown(name, uid, -1, dir_fd=parent, follow_symlinks=False)
        except PermissionError:
            # Neither root nor CAP_CHOWN, which units give to daemons of ordinary users.
            os.rmdir(name, dir_fd=parent)
        except OSError:
            os.rmdir(name, dir_fd=parent)
            raise
