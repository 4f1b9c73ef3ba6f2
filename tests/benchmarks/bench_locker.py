# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lock costs, beside what the system asks for the same.

The floor is a bare pair of sockets: the other end receives a descriptor, locks it, answers,
and unlocks and closes it, without a protocol. Both ends share one CPU, so that the figures hold
the work and the switches between the processes, and not the time a sleeping CPU takes to wake.

Run it as a program, or call `measure`.
"""

import array
import contextlib
import fcntl
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import trio

from locker.aio import AsyncChannel
from locker.channel import Channel
from locker.client import Locker
from locker.messages import CODEC, AcquireLocks, GetStatistics, ReleaseLocks
from locker.pathlocks import PathLocks
from locker.start import start_helper

ROUNDS = 3000
REPEATS = 7
BATCH = 128
MANY = 10_000

EXCLUSIVE = struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0)
UNLOCK = struct.pack("hhqqi0q", fcntl.F_UNLCK, 0, 0, 0, 0)


def microseconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Give the median over the repeats of the time that one call takes."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        times.append((time.perf_counter() - start) / rounds * 1e6)
    return statistics.median(times)


@contextlib.contextmanager
def pinned(*, one: bool) -> Iterator[None]:
    """Keep this process, and those it starts, on one CPU."""
    before = os.sched_getaffinity(0)
    if one:
        os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def bare_peer(*, locking: bool) -> Iterator[socket.socket]:
    """Give a socket to a process that answers each datagram, and locks what comes with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        (answer_locking if locking else answer)(theirs)
        os._exit(0)
    theirs.close()
    with ours:
        yield ours
    os.waitpid(pid, 0)


def answer(sock: socket.socket) -> None:
    """Send each datagram back."""
    while data := sock.recvmsg(4096, 64)[0]:
        sock.send(data)


def answer_locking(sock: socket.socket) -> None:
    """Lock the file that comes with a datagram, answer, unlock and close it."""
    while True:
        data, ancillary, _, _ = sock.recvmsg(4096, 64)
        if not data:
            return
        (fd,) = array.array("i", ancillary[0][2])
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, EXCLUSIVE)
        sock.send(data)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, UNLOCK)
        os.close(fd)


def measure_floor(fd: int) -> dict[str, float]:
    """Measure the bare sockets."""
    figures = {}
    data = bytes(24)
    with bare_peer(locking=False) as sock:

        def ping() -> None:
            sock.send(data)
            sock.recvmsg(4096, 64)

        figures["bare ping-pong"] = microseconds(ping)
    with bare_peer(locking=True) as sock:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]

        def lock() -> None:
            sock.sendmsg([data], rights)
            sock.recvmsg(4096, 64)

        figures["bare lock"] = microseconds(lock)
    return figures


def measure_transactions(fd: int) -> dict[str, float]:
    """Measure single transactions with the locker, and batches, over a blocking channel."""
    helper = start_helper("locker")
    token = 0
    batch = [os.open(f"/proc/self/fd/{fd}", os.O_RDWR) for _ in range(BATCH)]
    with Channel(helper.socket, CODEC) as channel:

        def ask() -> None:
            channel.send(GetStatistics())
            channel.receive()

        def lock(fds: list[int], *, shared: bool) -> None:
            nonlocal token
            channel.send(AcquireLocks(token, shared, wait=True, lock_files=False), fds)
            channel.receive()
            channel.send(ReleaseLocks(token, len(fds), deleted=False))
            token += len(fds)

        figures = {
            "locker: no-op": microseconds(ask),
            "locker: lock and release": microseconds(partial(lock, [fd], shared=False)),
            "locker: lock and release, each of 128": microseconds(
                partial(lock, batch, shared=True), ROUNDS // BATCH
            )
            / BATCH,
        }
    for other in batch:
        os.close(other)
    os.waitpid(helper.pid, 0)
    return figures


def count_descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def measure_client(directory: Path) -> dict[str, float]:
    """Measure what the daemon uses: tasks, path locks, and ten thousand locks at once."""
    helper = start_helper("locker")
    locker = Locker(AsyncChannel(helper.socket, CODEC))
    paths = PathLocks(locker)
    figures: dict[str, float] = {}
    fd = os.open(directory / "client", os.O_RDWR | os.O_CREAT)
    async with trio.open_nursery() as nursery:
        await nursery.start(locker.run)
        start = time.perf_counter()
        for _ in range(ROUNDS):
            async with locker.hold([fd]):
                pass
        figures["task: hold through the locker"] = (time.perf_counter() - start) / ROUNDS * 1e6
        start = time.perf_counter()
        for _ in range(ROUNDS):
            async with paths.hold([str(directory / "item")]):
                pass
        figures["task: hold a free path"] = (time.perf_counter() - start) / ROUNDS * 1e6
        figures |= await measure_many(locker, directory)
        nursery.cancel_scope.cancel()
    os.close(fd)
    os.waitpid(helper.pid, 0)  # noqa: ASYNC222 - nothing else is to run
    return figures


async def measure_many(locker: Locker, directory: Path) -> dict[str, float]:
    """Lock ten thousand files that exist, and count descriptors before and while it is so."""
    names = [directory / str(number) for number in range(MANY)]
    for name in names:
        os.mknod(name)
    opener = partial(os.open, flags=os.O_RDONLY | os.O_CLOEXEC)
    before = count_descriptors()
    times, during = [], 0
    for _ in range(REPEATS):
        start = time.perf_counter()
        lease = await locker.acquire(names, opener, shared=True)
        times.append((time.perf_counter() - start) * 1e3)
        during = count_descriptors()
        assert lease is not None
        await lease.release()
        await locker.inspect()
    return {
        "10,000 locks, ms": statistics.median(times),
        "descriptors before": before,
        "descriptors while held": during,
    }


def measure() -> dict[str, float]:
    """Give all figures: microseconds, unless the name says otherwise."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        directory = Path(path)
        fd = os.open(directory / "file", os.O_RDWR | os.O_CREAT)
        figures: dict[str, float] = {}
        with pinned(one=True):
            figures |= measure_floor(fd)
            figures |= measure_transactions(fd)
        figures |= trio.run(measure_client, directory)
        os.close(fd)
    figures["locker: no-op, over bare ping-pong"] = (
        figures["locker: no-op"] - figures["bare ping-pong"]
    )
    figures["locker: lock and release, over bare lock"] = (
        figures["locker: lock and release"] - figures["bare lock"]
    )
    return figures


def main() -> None:
    """Print the figures."""
    for name, value in measure().items():
        sys.stdout.write(f"{name:44} {value:10.2f}\n")


if __name__ == "__main__":
    main()
