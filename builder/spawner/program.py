# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding the program to execute, from inside the container.

Until the exec, ``/proc/self/exe`` is our own interpreter, a file of the host. A builder
that is a link to it, or a script whose first line names it, could get hold of that file
(CVE-2019-5736). So neither the program nor an interpreter may be reached through a link
of the kernel's making, and the program must lie beneath the store.

Entry point: `resolve`.
"""

import errno
import os
import stat

from builder.spawner.syscalls import RESOLVE_NO_MAGICLINKS, how_to_open, openat2

_HOW = how_to_open(os.O_PATH, RESOLVE_NO_MAGICLINKS)
_MAX_SCRIPTS = 5  # as deep as the kernel follows interpreters of interpreters
_FIRST_LINE = 256  # BINPRM_BUF_SIZE: what the kernel looks at


class UnsuitableProgramError(Exception):
    """The program is not one that may be executed; the message says why."""


def resolve(program: bytes, beneath: bytes | None, proc: int) -> bytes:
    """Give the path of a program without symbolic links.

    Args:
        program: Its path in the container.
        beneath: The directory it must be in, or None.
        proc: A descriptor of ``/proc``.

    Raises:
        UnsuitableProgramError: It lies elsewhere, or is not a regular file.
        OSError: It cannot be opened.
    """
    resolved = _check(program, proc, 0)
    if beneath is not None and not resolved.startswith(beneath + b"/"):
        name = resolved.decode(errors="backslashreplace")
        raise UnsuitableProgramError(f"derivation builder `{name}' is outside the store")
    return resolved


def _check(program: bytes, proc: int, depth: int) -> bytes:
    fd = openat2(-100, program, _HOW, len(_HOW))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError(errno.EACCES, "not a regular file")
        link = b"self/fd/%d" % fd
        interpreter = _interpreter(link, proc)
        resolved: bytes = os.readlink(link, dir_fd=proc)
    finally:
        os.close(fd)
    if interpreter and depth < _MAX_SCRIPTS:
        _check(interpreter, proc, depth + 1)
    return resolved


def _interpreter(link: bytes, proc: int) -> bytes:
    """Give what the first line of a script names, or nothing where the file is no script."""
    try:
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except PermissionError:  # a program may be executable and yet unreadable; a script may not
        return b""
    try:
        head = os.pread(fd, _FIRST_LINE, 0)
    finally:
        os.close(fd)
    if not head.startswith(b"#!"):
        return b""
    words = head[2:].split(b"\n", 1)[0].split(b"\0", 1)[0].split(maxsplit=1)
    return words[0] if words else b""
