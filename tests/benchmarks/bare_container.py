# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare container made by raw system calls: what no spawner can do without.

clone with mount, pid, net, ipc and uts namespaces, six device binds, proc, pivot_root, execution
of a static program that exits. It sends no message, and protects nothing and nobody. The process
is kept as small as Python allows, and imports nothing of the project.

Run as ``bare_container.py ROOT PROGRAM ROUNDS``; prints the median in milliseconds. Without
ROUNDS, it reads counts from standard input and answers each with the mean in seconds.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # NS, UTS, IPC, PID, NET
_CLONE_PIDFD, _SIGCHLD = 0x1000, 17
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 1 << 18, 2
_SYS_CLONE3 = 435
_SYS_PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), None))


def _inside(root: bytes) -> None:
    _mount(None, b"/", None, _MS_REC | _MS_PRIVATE)
    _mount(root, root, None, _MS_BIND)
    for node in _DEVICES:
        name = os.fsencode(node)
        _mount(b"/dev/" + name, root + b"/dev/" + name, None, _MS_BIND)
    _mount(b"proc", root + b"/proc", b"proc", 0)
    os.chdir(root)
    _check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."))
    _check(_libc.umount2(b".", _MNT_DETACH))
    os.execve("/program", ["program"], {})


def make(root: bytes, arguments: "ctypes.Array[ctypes.c_uint64]", pidfd: ctypes.c_int) -> None:
    """Make a container and wait for its end."""
    size = ctypes.c_long(ctypes.sizeof(arguments))
    pid = _check(_libc.syscall(ctypes.c_long(_SYS_CLONE3), arguments, size))
    if pid == 0:
        try:
            _inside(root)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError("the bare container failed")
    os.close(pidfd.value)


def prepare(root: str, program: str) -> None:
    """Fill a root directory."""
    for name in ("dev", "proc"):
        os.mkdir(f"{root}/{name}")
    for node in _DEVICES:
        os.close(os.open(f"{root}/dev/{node}", os.O_CREAT))
    os.link(program, f"{root}/program")


def maker(root: str, program: str) -> Callable[[], None]:
    """Fill a root directory, and return what makes a container in it and waits for its end."""
    prepare(root, program)
    pidfd = ctypes.c_int()
    numbers = (_NEW | _CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, _SIGCHLD, *[0] * 6)
    arguments = (ctypes.c_uint64 * 11)(*numbers)
    gc.freeze()
    return lambda: make(os.fsencode(root), arguments, pidfd)


def time_each(once: Callable[[], None], rounds: int) -> list[float]:
    """Make containers, and give the seconds that each took, in ascending order."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return sorted(times)


def main(root: str, program: str, rounds: int) -> None:
    """Measure once."""
    times = time_each(maker(root, program), rounds)
    print(times[rounds // 2] * 1000)  # noqa: T201 - the result


def serve(root: str, program: str) -> None:
    """Measure whenever a line with a count comes; answer with the mean in seconds."""
    once = maker(root, program)
    for line in sys.stdin:
        times = time_each(once, int(line))
        print(sum(times) / len(times), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    if len(sys.argv) > 3:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        serve(sys.argv[1], sys.argv[2])
