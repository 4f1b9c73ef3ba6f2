# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that Python does not offer, under their own names.

Each wrapper raises `OSError` that names the call. The new mount calls are reached by
number, since C libraries older than glibc 2.36 have no wrappers for them; their numbers
are the same on every machine but for the few in `_NUMBERS`.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Any

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT = 1 << 5
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

CLOSE_RANGE_CLOEXEC = 4

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MACHINE = os.uname().machine
_PIVOT_ROOT = {"x86_64": 155, "i686": 217}.get(_MACHINE, 41)

_libc = ctypes.CDLL(None, use_errno=True)
_text, _int, _uint, _size = ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t


def _system_call(name: str, number: int, *types: Any) -> Callable[..., int]:
    """Bind a system call by number, or a function of libc where `number` is 0."""
    function = _libc["syscall" if number else name]
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, *types) if number else types
    get_errno, leading = ctypes.get_errno, (number,) if number else ()

    def call(*arguments: Any) -> int:
        result: int = function(*leading, *arguments)
        if result < 0:
            code = get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")
        return result

    return call


clone3 = _system_call("clone3", 435, ctypes.c_void_p, _size)
openat2 = _system_call("openat2", 437, _int, _text, _text, _size)
open_tree = _system_call("open_tree", 428, _int, _text, _uint)
move_mount = _system_call("move_mount", 429, _int, _text, _int, _text, _uint)
fsopen = _system_call("fsopen", 430, _text, _uint)
fsconfig = _system_call("fsconfig", 431, _int, _uint, _text, _text, _int)
fsmount = _system_call("fsmount", 432, _int, _uint, _uint)
mount_setattr = _system_call("mount_setattr", 442, _int, _text, _uint, _text, _size)
landlock_create_ruleset = _system_call("landlock_create_ruleset", 444, _text, _size, _uint)
pivot_root = _system_call("pivot_root", _PIVOT_ROOT, _text, _text)
mount = _system_call("mount", 0, _text, _text, _text, ctypes.c_ulong, _text)
umount2 = _system_call("umount2", 0, _text, _int)
setns = _system_call("setns", 0, _int, _int)
unshare = _system_call("unshare", 0, _int)
sethostname = _system_call("sethostname", 0, _text, _size)
setdomainname = _system_call("setdomainname", 0, _text, _size)
prctl = _system_call("prctl", 0, _int, *[ctypes.c_ulong] * 4)


def how_to_open(flags: int, resolve: int, mode: int = 0) -> bytes:
    """Give the ``struct open_how`` of openat2(2)."""
    return struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)


def mount_attributes(set_flags: int, propagation: int = 0) -> bytes:
    """Give the ``struct mount_attr`` of mount_setattr(2)."""
    return struct.pack("=QQQQ", set_flags, 0, propagation, 0)


_RT_SIGACTION = 13 if _MACHINE == "x86_64" else 174 if _MACHINE == "i686" else 134
_SIG_IGN = struct.pack("@P", 1)
_rt_sigaction = _system_call("rt_sigaction", _RT_SIGACTION, _int, _text, _text, _size)


def reset_ignored_signals() -> None:
    """Give each signal that this process ignores its default action.

    What is ignored stays so in programs that are executed. Python ignores two itself, and
    the two that the C library keeps to itself may have come ignored; `signal.signal` cannot
    change those.
    """
    action, default = ctypes.create_string_buffer(32), bytes(32)
    for number in range(1, 65):
        if number not in (9, 19):  # SIGKILL, SIGSTOP
            _rt_sigaction(number, None, action, 8)
            if action.raw[: ctypes.sizeof(ctypes.c_void_p)] == _SIG_IGN:
                _rt_sigaction(number, default, None, 8)
