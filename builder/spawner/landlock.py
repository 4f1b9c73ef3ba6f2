# SPDX-License-Identifier: GPL-3.0-or-later
"""A Landlock domain for builders: signals and abstract sockets stay within it.

Namespaces keep both apart already; the domain holds where there are none
(``--disable-chroot``), and should a namespace be shared by mistake.

Entry point: `make_ruleset` once in the spawner; builders restrict themselves by it.
"""

import struct

from builder.spawner.syscalls import landlock_create_ruleset

_GET_VERSION = 1
_SCOPES_SINCE = 6
_ABSTRACT_UNIX_SOCKET, _SIGNAL = 1, 2


def make_ruleset() -> int:
    """Give the descriptor of a ruleset, or -1 where the kernel knows no scopes."""
    try:
        version = landlock_create_ruleset(None, 0, _GET_VERSION)
        if version < _SCOPES_SINCE:
            return -1
        attributes = struct.pack("=QQQ", 0, 0, _ABSTRACT_UNIX_SOCKET | _SIGNAL)
        return landlock_create_ruleset(attributes, len(attributes), 0)
    except OSError:
        return -1  # the kernel was built without it, or booted with it off
