# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that Python does not offer, under their own names.

Each raises `OSError` that names the call. They are reached by number, since C libraries
older than glibc 2.36 have no wrappers for the new mount calls, and through the extension,
since a container takes more than fifty, and ctypes ten times as long for one.
"""

import os
import struct
from collections.abc import Callable
from functools import partial

from builder.spawner import _launch

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

_COLUMN = {"x86_64": 0, "i686": 1}.get(_MACHINE, 2)


def _system_call(name: str, *numbers: int) -> Callable[..., int]:
    """Bind a system call by its number: one for all machines, or those of x86_64, i686, others."""
    return partial(_launch.call, name, numbers[_COLUMN] if len(numbers) > 1 else numbers[0])


clone3 = _system_call("clone3", 435)
openat2 = _system_call("openat2", 437)
open_tree = _system_call("open_tree", 428)
move_mount = _system_call("move_mount", 429)
fsopen = _system_call("fsopen", 430)
fsconfig = _system_call("fsconfig", 431)
fsmount = _system_call("fsmount", 432)
mount_setattr = _system_call("mount_setattr", 442)
landlock_create_ruleset = _system_call("landlock_create_ruleset", 444)
pivot_root = _system_call("pivot_root", 155, 217, 41)
mount = _system_call("mount", 165, 21, 40)
umount2 = _system_call("umount2", 166, 52, 39)
setns = _system_call("setns", 308, 346, 268)
unshare = _system_call("unshare", 272, 310, 97)
sethostname = _system_call("sethostname", 170, 74, 161)
setdomainname = _system_call("setdomainname", 171, 121, 162)
prctl = _system_call("prctl", 157, 172, 167)


def how_to_open(flags: int, resolve: int, mode: int = 0) -> bytes:
    """Give the ``struct open_how`` of openat2(2)."""
    return struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)


def mount_attributes(set_flags: int, propagation: int = 0) -> bytes:
    """Give the ``struct mount_attr`` of mount_setattr(2)."""
    return struct.pack("=QQQQ", set_flags, 0, propagation, 0)


_SIG_IGN = struct.pack("@P", 1)
_rt_sigaction = _system_call("rt_sigaction", 13, 174, 134)


def reset_ignored_signals() -> None:
    """Give each signal that this process ignores its default action.

    What is ignored stays so in programs that are executed. Python ignores two itself, and
    the two that the C library keeps to itself may have come ignored; `signal.signal` cannot
    change those.
    """
    action, default = bytearray(32), bytes(32)
    for number in range(1, 65):
        if number not in (9, 19):  # SIGKILL, SIGSTOP
            _rt_sigaction(number, None, action, 8)
            if action[: len(_SIG_IGN)] == _SIG_IGN:
                _rt_sigaction(number, default, None, 8)
