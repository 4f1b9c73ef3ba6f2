# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bare system takes: the floors that figures are multiples of.

Floors that need another process keep it from round to round; they are context managers.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from tests.benchmarks.rounds import timed


@contextmanager
def echo(request_size: int, reply_size: int, cpu: int | None = None) -> Iterator[socket.socket]:
    """Run a process that answers each request by plain blocking calls, on this CPU if any."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            _answer(theirs, request_size, bytes(reply_size))
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(child, 0)


def _answer(sock: socket.socket, request_size: int, reply: bytes) -> None:
    while True:
        received = 0
        while received < request_size:
            data = sock.recv(65536)
            if not data:
                return
            received += len(data)
        sock.sendall(reply)


@contextmanager
def ping_pong(
    request_size: int, reply_size: int, count: int, cpu: int | None = None
) -> Iterator[Callable[[], float]]:
    """Give what measures one round trip between two processes, over `count` of them."""
    with echo(request_size, reply_size, cpu) as sock:
        request = bytes(request_size)

        def once() -> None:
            sock.sendall(request)
            received = len(sock.recv(65536))
            while received < reply_size:
                received += len(sock.recv(65536))

        yield lambda: timed(once, count)


@contextmanager
def bare_containers(program: Path, root: Path, count: int) -> Iterator[Callable[[], float] | None]:
    """Give what measures one bare container, over `count` of them; None where that needs root.

    Args:
        program: A static program that does nothing where its environment is empty.
        root: A directory that does not exist yet.
        count: How many.
    """
    if os.geteuid() != 0:
        yield None
        return
    root.mkdir()
    script = Path(__file__).with_name("bare_container.py")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), str(root), str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def measure() -> float:
            requests.write(f"{count}\n")
            requests.flush()
            return float(answers.readline())

        yield measure
        requests.close()


@contextmanager
def accepting(address: Path, count: int) -> Iterator[Callable[[], float]]:
    """Give what measures a connection with two round trips, over `count` of them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen()
        child = os.fork()
        if child == 0:
            try:
                while True:
                    with listener.accept()[0] as sock:
                        _answer(sock, 8, bytes(16))
            finally:
                os._exit(0)

        def once() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(address))
                for _ in range(2):
                    sock.sendall(bytes(8))
                    sock.recv(65536)

        try:
            yield lambda: timed(once, count)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def hashing(data: bytes | bytearray) -> Callable[[], float]:
    """Give what measures sha256 of some bytes."""
    return lambda: timed(lambda: sha256(data).digest())


def writing_files(base: Path, sizes: list[int]) -> Callable[[], float]:
    """Give what measures the making of files of some sizes, a hundred in a directory."""
    content = bytes(max(sizes))
    made = 0

    def once() -> None:
        for number, size in enumerate(sizes):
            directory = f"{base}/{made}/{number // 100}"
            if number % 100 == 0:
                os.makedirs(directory)
            fd = os.open(f"{directory}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            os.write(fd, content[:size])
            os.close(fd)

    def measure() -> float:
        nonlocal made
        made += 1
        return timed(once)

    return measure


def interpreter_start() -> float:
    """Measure the start of the interpreter alone."""
    return timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
