# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories in which users keep their profiles, made when a user first connects.

Names come from the user database, never from a client. Entry points:
`UserDirectories.welcome`, `UserDirectories.ensure`.
"""

import os
from collections import OrderedDict

from builder.options import Client
from storedaemon.logs import Logger

KEEP_ENTRIES = 1024


class UserDirectories:
    """Makes ``per-user/NAME`` below the profiles, each name once.

    Args:
        profiles: The directory of all profiles.
    """

    def __init__(self, profiles: str) -> None:
        self._parent = f"{profiles}/per-user"
        self._seen: OrderedDict[str, None] = OrderedDict()

    def welcome(self, client: Client, log: Logger) -> None:
        """Make the directory of a client whose user is known; go on without where that fails."""
        if client.uid is None or not client.user or client.user.isdigit():
            return
        try:
            self.ensure(client.user, client.uid)
        except OSError as error:
            log.warning("no profile directory", user=client.user, error=str(error))

    def ensure(self, name: str, uid: int) -> None:
        """Make a user's directory, which belongs to that user.

        Raises:
            OSError: It cannot be made.
        """
        if name in self._seen or "/" in name or name in {"", ".", ".."}:
            return
        self._make(name, uid)
        self._seen[name] = None
        if len(self._seen) > KEEP_ENTRIES:
            self._seen.popitem(last=False)

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
