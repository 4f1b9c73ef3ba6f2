# SPDX-License-Identifier: GPL-3.0-or-later
"""When a builder's inputs are shown as one view, and what that leaves on its outputs.

Entry points: `Views`, and `clean`.
"""

import errno
import os
import stat

import structlog

from builder.directories import opened
from builder.operations import StoreView
from builder.spawner.client import SetupError, SpawnError
from builder.users import BuildUser
from store.files import walk_opened

VIEW_FROM = 1000
"""Inputs from which one view is made faster than as many mounts, with much room to spare."""

_LACKING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EPERM)
_MARK = "trusted.overlay."

log = structlog.get_logger("builder")


class Views:
    """Chooses how inputs are shown, and remembers where views cannot be made.

    Args:
        least: The number of inputs from which a view is made.
    """

    def __init__(self, least: int = VIEW_FROM) -> None:
        self._least = least
        self._possible = True

    def choose(self, inputs: int, user: BuildUser | None) -> bool:
        """Tell whether a builder's inputs are to be a view; it takes a build user, and so root."""
        return self._possible and user is not None and inputs >= self._least

    def were_refused(self, error: SpawnError) -> bool:
        """Tell whether a view could not be made; from then on none is chosen any more."""
        if not (isinstance(error, SetupError) and isinstance(error.operation, StoreView)):
            return False
        if error.errno not in _LACKING:
            return False
        self._possible = False
        log.warning("no_views", reason=error.text)
        return True


def clean(store: str) -> None:
    """Take the kernel's marks off what a builder made within a view.

    It puts them on directories that are new where the view begins, and they go
    along when those are moved. The builder must be gone.

    Raises:
        OSError: A mark cannot be removed.
        FileError: Something is nested too deep.
    """
    with opened(store) as fd:
        for name in os.listdir(fd):
            walk_opened(fd, name, _unmark)


def _unmark(fd: int, status: os.stat_result, _path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        for name in os.listxattr(fd):
            if name.startswith(_MARK):
                os.removexattr(fd, name)
