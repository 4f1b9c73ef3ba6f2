# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare container: what the kernel takes for any build, and nothing that protects anybody.

Clone with mount, pid, net, ipc and uts namespaces, six device binds, proc, pivot_root,
execution of a static program that exits, wait. Run as a program, it is the small process
that makes them, for a fork costs what the forking process is large: it reads counts from
standard input, a line each, and answers with the seconds that each container took.
"""

import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder.spawner.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_PRIVATE,
    clone3,
    mount,
    pivot_root,
    umount2,
)

_MS_BIND, _MS_REC, _CLONE_PIDFD = 0x1000, 0x4000, 0x1000
_NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS

DEVICES = (b"full", b"null", b"random", b"tty", b"urandom", b"zero")


def prepare(root: Path, program: Path) -> Callable[[], None]:
    """Furnish a root, and return what makes a container in it and waits for its end.

    Args:
        root: An empty directory.
        program: A static program, which gets ``-`` as its argument.
    """
    for name in ("dev", "proc"):
        (root / name).mkdir()
    for node in DEVICES:
        (root / "dev" / os.fsdecode(node)).touch()
    shutil.copy(program, root / "true")
    path = bytes(root)
    binds = [(b"/dev/" + node, path + b"/dev/" + node) for node in DEVICES]
    pidfd = ctypes.c_int()
    numbers = (_NAMESPACES | _CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, int(signal.SIGCHLD))
    arguments = (ctypes.c_uint64 * 11)(*numbers)

    def inside() -> None:
        mount(None, b"/", None, _MS_REC | MS_PRIVATE, None)
        mount(path, path, None, _MS_BIND, None)
        for source, target in binds:
            mount(source, target, None, _MS_BIND, None)
        mount(b"proc", path + b"/proc", b"proc", 0, None)
        os.chdir(path)
        pivot_root(b".", b".")
        umount2(b".", MNT_DETACH)
        os.execve("/true", ["true", "-"], {})

    def make() -> None:
        pid = clone3(arguments, ctypes.sizeof(arguments))
        if pid == 0:
            try:
                inside()
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError("the bare container failed")
        os.close(pidfd.value)

    return make


def serve(root: Path, program: Path) -> None:
    """Make containers as standard input asks for."""
    make = prepare(root, program)
    for line in sys.stdin:
        count = int(line)
        started = time.perf_counter()
        for _ in range(count):
            make()
        print((time.perf_counter() - started) / count, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
